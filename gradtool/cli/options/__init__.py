"""Options: a table of those that commands share, and the making of commands from it."""
