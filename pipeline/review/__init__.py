"""The database of episodes and visits, a projection of their streams, and its queries."""
