"""What names of files tell: which number is missing, which are names of one file."""
