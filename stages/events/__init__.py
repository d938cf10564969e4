"""Rules over published results: tracks, conditions, episodes."""
