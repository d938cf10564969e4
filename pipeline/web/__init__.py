"""The HTTP port: metrics, health, pictures, the live page."""
