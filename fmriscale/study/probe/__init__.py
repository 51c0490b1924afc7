"""Decoding a column from encoders, beside the baselines that labs use."""
