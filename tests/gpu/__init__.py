"""L3: the same promises with memory of real GPUs. What needs none of one also runs on the CPU."""
