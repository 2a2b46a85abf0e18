"""What `clip` prints."""
