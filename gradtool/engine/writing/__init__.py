"""A catalogue and what becomes of its tensors give new files."""
