"""What two dumps have in common: names that pair, distances of tensors, tolerances."""
