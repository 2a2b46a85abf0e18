"""Reports of `inspect`."""
