"""The version, for whoever needs no more of gradtool than that."""

__version__ = "0.1.0"
