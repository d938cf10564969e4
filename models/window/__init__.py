"""The window head: features of the last frames, reused, and what they say of the newest boxes."""
