"""Several files as one checkpoint: each layout is one module."""
