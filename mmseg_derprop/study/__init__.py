"""Studies: a matrix of runs from one file, each in a process of its own, and one table of results."""
