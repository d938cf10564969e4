"""Commands that spread sources and heavy workers over several hosts."""
