"""The types that `clip` is built of: request, plan, outcome."""
