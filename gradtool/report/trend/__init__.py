"""Reports of `trend`."""
