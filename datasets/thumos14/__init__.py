"""THUMOS14 temporal action localization: 413 untrimmed sports videos, 20 classes, as feature sequences."""
