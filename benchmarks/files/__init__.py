"""Whole commands on files, beside their peers."""
