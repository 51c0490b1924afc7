"""A timbre experiment with known truth, written as an fMRIPrep derivative or a corpus."""
