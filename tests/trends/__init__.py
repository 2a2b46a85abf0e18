"""Runs of several steps, made for tests."""
