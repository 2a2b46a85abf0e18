"""Runs followed while they are written: which steps are finished, and what is to be said then."""
