"""The stages of the graph, the only package that imports both the engine and the models."""
