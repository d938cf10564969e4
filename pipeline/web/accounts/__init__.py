"""Accounts and roles, logins, and the check of each request."""
