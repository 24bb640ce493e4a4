"""Smartphone recordings of human activities and postural transitions (UCI HAPT)."""
