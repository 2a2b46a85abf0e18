"""gradtool: the truth about gradients saved to disk."""
