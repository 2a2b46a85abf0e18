"""Lists of the checkpoints that a path holds, of which none was chosen."""
