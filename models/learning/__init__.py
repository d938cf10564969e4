"""Tuning, training and judging of a model: examples, teacher, thresholds, verdict."""
