"""Whether what a deployment answers is right, and whether the KV moved."""
