"""An inert interpreter of pickles: it gives plain values, and stand-ins for all other objects."""
