"""How the shipped weights are made (needs the `train` extra)."""
