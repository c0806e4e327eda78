"""What the documentation is made and checked with."""
