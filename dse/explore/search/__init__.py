"""Search: hardware and parallelization together, exhaustively, with a proof, or by a sampler that can be resumed."""
