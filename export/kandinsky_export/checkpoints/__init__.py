"""Checkpoint folders and their weight files: what they hold, read one tensor at a time and without running anything."""
