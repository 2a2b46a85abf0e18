"""Two tensors of one shape read block beside block, however each of them is stored."""
