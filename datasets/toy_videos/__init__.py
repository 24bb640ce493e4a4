"""Rendered films with six kinds of actions: the data of the way from video files to detections."""
