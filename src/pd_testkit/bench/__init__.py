"""What is asked of a deployment over its network interfaces: is it right, and how fast is it."""
