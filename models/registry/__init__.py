"""The user's own models: folders under their digest."""
