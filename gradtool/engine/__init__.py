"""Measuring: a catalogue of tensors, a backend and an executor give a `Measurement`."""
