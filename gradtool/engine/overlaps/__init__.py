"""Views that share stored elements: found, laid out, walked, and kept from two transforms."""
