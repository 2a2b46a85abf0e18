"""Two dumps compared: on which terms, why they differ, and one that others are held against."""
