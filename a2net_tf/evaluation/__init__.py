"""Detections against ground truth: the protocols of the challenges, recall of proposals, files of results."""
