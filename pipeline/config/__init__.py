"""Configuration: `pipeline.toml`, the graph, sources as people name them."""
