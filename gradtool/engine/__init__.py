"""A catalogue, a backend and an executor give a `Measurement`, or the files written anew."""
