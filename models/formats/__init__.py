"""Decoders for the output formats of detectors, one module for each family."""
