"""Training a network, and the directory that a run leaves."""
