"""Single files: each format is one module."""
