"""The vocabulary of `clip`: what each tensor gets, and what came of it."""
