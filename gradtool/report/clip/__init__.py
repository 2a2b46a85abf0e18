"""Reports of `clip`."""
