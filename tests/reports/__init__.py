"""Reports for tests: made with any text in every place, and read back by their formats."""
