"""Gradients in memory: trees of arrays, modules and named parameters, as catalogues."""
