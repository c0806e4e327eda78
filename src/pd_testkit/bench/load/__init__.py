"""Load: what is asked when, and what it took."""
