"""A fleet: the sources of several hosts, the slots that serve them, and their common plan."""
