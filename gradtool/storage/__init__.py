"""Bytes in, bytes out: files opened and checked, read in bounded pieces, replaced as a whole."""
