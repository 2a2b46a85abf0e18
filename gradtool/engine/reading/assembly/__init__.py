"""From the results of tasks to the measurements of tensors, their rows, and the whole."""
