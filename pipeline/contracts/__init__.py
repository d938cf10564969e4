"""The types that stages, sources and readers build on. They import nothing else of Framegate."""
