"""Moves KV from a prefill to a decode engine by one-sided reads: the parts without I/O."""
