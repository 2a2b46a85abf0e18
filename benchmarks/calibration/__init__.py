"""No speed: the thresholds of rules, on training runs that are well and that are not."""
