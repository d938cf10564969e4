"""ByteTrack with explicit state, and the decision which tracks are shown."""
