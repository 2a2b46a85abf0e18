"""Measuring the tensors of a catalogue: plan, tasks, reductions, and the measurement."""
