"""Which tensor of one dump is which of another, by what they are called."""
