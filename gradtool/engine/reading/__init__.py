"""A catalogue, a backend and an executor give a measurement."""
