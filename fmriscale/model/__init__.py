"""Tensors in, logits out: torch only."""
