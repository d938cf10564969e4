"""Questions to a heavier model: batches, transport to workers on any host or to a KServe server."""
