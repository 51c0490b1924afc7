"""Confounds, denoising, censoring, quality."""
