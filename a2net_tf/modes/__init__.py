"""One file per --mode, named as the mode: what it does, from settings to files."""
