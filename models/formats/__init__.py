"""Outputs of other detectors, one family each."""
