"""Annotated videos and pictures."""
