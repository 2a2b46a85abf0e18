"""The command line: words and wires."""
