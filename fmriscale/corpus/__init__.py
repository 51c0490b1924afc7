"""Tar shards and their manifest: bytes only, no torch, no neuroimaging."""
