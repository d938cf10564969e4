"""INT8: which layers stay float, and the accuracy with its interval."""
