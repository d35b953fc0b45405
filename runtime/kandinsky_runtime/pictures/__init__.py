"""Pictures and masks: reading, sizes, areas, and pasting."""
