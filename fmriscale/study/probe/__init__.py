"""Decoding a column from frozen encoders, beside the baselines that labs use."""
