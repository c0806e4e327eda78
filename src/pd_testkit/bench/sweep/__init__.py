"""Many configurations and many loads, one after another, and their tables."""
