"""Catalogues of gradients in memory: of modules, named parameters and trees of arrays."""
