"""Pixels and large state in shared memory, which outlives a worker."""
