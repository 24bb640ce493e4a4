"""Trained and exported models at work on whole sequences."""
