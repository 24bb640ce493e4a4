"""From video files to frames with exact times, and from frames to feature vectors."""
