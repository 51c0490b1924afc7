"""Scans -> [T, V]: files and neuroimaging, no torch."""
