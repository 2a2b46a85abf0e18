"""Clipping: where gradients come from, the plan, and where they are written."""
