"""What is changed about the parts of a file, and which changes make a mutant."""
