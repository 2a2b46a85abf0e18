"""What all benchmarks share: bouts, clocks, exact norms, tables."""
