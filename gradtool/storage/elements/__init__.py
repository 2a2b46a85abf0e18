"""Elements read through strides, and those of sparse tensors that are to be summed up first."""
