"""Shapes of tensors: strides over memory, and boxes that they are cut into."""
