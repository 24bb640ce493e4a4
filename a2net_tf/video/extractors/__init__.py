"""Networks that make a feature vector of frames, with their weights."""
