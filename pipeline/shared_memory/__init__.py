"""State that outlives a worker: frame stores, state planes and rings."""
