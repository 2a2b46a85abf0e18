"""Options: the table of those that commands share, and how commands are made of it."""
