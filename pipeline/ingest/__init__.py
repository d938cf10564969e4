"""From a source to entries: decoder threads, credit, pace, epochs."""
