"""HTML pages of a corpus, a pre-training run and a study."""
