"""One file an area of endpoints; each has a `router`."""
