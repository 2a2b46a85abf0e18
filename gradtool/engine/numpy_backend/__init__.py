"""The CPU backend, in NumPy."""
