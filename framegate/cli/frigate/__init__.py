"""The configuration of Frigate, read and translated into one of Framegate."""
