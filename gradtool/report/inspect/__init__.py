"""What `inspect` prints."""
