"""Memory that several processes map: frame stores, sound stores, state planes and rings."""
