"""Side-by-side measurements. Each is a module with a command line; the results are in results/."""
