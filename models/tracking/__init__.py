"""Tracks of objects, and the decision which boxes are shown."""
