"""What gradtool and the loaders see in a file, and whether it is the same."""
