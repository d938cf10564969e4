"""The HTTP port: authentication, metrics, health, API, pictures, pages."""
