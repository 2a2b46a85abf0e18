"""Rules that compare a layer with its siblings, and telling what is alike in many as one."""
