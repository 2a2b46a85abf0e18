"""Logs of trainers: the norms that they say their gradients had, step by step."""
