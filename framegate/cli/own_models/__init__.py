"""Commands that add, list and use models of a user."""
