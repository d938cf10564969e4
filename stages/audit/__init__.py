"""Audits: what keeps and proves the promise."""
