"""Shapes of tensors: strides over memory, boxes they are cut into, and which rank holds which."""
