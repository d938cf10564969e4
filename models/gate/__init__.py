"""The change gate: which parts of a picture are new."""
