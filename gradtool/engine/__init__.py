"""Measuring and rewriting the tensors of a catalogue, with a backend and an executor."""
