"""The engine: moves records about frames between stages; knows no pixels and no networks."""
