"""Pictures of active sources, and the live page."""
