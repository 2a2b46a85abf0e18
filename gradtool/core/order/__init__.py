"""Which tensors lie next to each other, in which layers, and what their names have in common."""
