"""A baseline: its file, its names, and the rules that compare a dump with it."""
