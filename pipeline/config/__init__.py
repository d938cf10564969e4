"""The configuration: `pipeline.toml`, the graph and the sources. Everything is checked before
anything starts.
"""
