"""The database of episodes, a projection of the stream of the stage `events`, and its queries."""
