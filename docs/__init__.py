"""The documents; beside the pages written by hand lies what generates the others."""
