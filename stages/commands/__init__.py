"""Training of the weights of doubt."""
