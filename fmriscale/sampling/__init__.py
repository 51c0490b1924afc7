"""Draw pairs of sequences for pre-training: pure functions of (corpus, seed, position)."""
