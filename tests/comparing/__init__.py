"""Dumps compared: `gradtool.diff`, and exact arithmetic to hold it against."""
