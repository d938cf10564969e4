"""The store: connections to Redis or Valkey, the hop, who owns a source, the embedded server."""
