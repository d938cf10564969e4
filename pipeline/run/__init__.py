"""A run: its supervisor, its workers, its sources, its folder."""
