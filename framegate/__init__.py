"""Framegate: streaming video analytics that computes only what is new."""
