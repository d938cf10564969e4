"""Decode the outputs of families of detectors to boxes. Knows boxes only."""
