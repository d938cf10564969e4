"""The promise of accuracy: its coin, its periods, its statistics, its certificates."""
