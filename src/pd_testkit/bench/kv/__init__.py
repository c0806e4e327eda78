"""The KV's bytes: how many a model makes, whether they moved, and how fast."""
