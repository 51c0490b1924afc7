"""Which two sequences, and is it true? Pure functions of (corpus, seed, position)."""
