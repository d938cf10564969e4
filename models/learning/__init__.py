"""Tuning, training and judging of a model: teacher, thresholds, verdict."""
