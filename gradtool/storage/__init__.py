"""Bytes in, bytes out: files opened once, checked, read in bounded pieces."""
