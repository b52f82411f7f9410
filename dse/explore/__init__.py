"""Which is best: estimates, sweeps, exhaustive search."""
