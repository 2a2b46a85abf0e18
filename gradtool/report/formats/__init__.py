"""Reports of `formats`."""
