"""Weight files, their manifest and their licences; package data, no code."""
