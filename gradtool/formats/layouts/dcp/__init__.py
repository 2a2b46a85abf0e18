"""torch distributed checkpoints: the boxes of tensors that ranks write into files of their own."""
