"""Tracks: which box goes on which, and when it is shown."""
