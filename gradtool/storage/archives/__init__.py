"""Zip archives, read and written by hand, and the CRCs in them."""
