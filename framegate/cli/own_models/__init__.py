"""The commands `models add` and `models get`."""
