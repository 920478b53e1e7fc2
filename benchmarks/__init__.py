"""Side-by-side measurements; each is a module with a command line, its results lie in results/."""
