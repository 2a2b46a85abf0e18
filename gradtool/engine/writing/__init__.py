"""Rewriting the files of a catalogue with some of its tensors transformed."""
