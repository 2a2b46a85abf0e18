"""An inert interpreter of pickles: what they describe, as plain values and stand-ins."""
