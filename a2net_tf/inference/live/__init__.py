"""Finds actions while a recording is still going on: feature vectors go in as they come, detections come out early.

This folder needs numpy, and TensorFlow for an exported model, and nothing of the rest of this package: copied to where
it runs, ``python -m live SAVED_MODEL`` reads vectors, and ``live.stream.Stream`` does from Python.
"""
