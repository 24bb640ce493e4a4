"""Labels from the tools in which people make them, one file per tool, and detections back into them."""
