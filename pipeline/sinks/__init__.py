"""Sinks: who is told of episodes beyond this host. Each has its own position in the store."""
