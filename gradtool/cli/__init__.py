"""The command line: what is typed becomes calls of the library, and results become text."""
