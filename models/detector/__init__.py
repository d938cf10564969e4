"""Detectors: networks, their decoding, precision by trial, answers known before."""
