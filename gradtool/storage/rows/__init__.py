"""Rows of dumps that were measured before: a store that several processes share, and its texts."""
