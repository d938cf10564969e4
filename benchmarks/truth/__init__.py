"""Accuracy by labels of people. LABELS.md is the protocol of the labels by eye."""
