"""INT8: which layers stay float, and the accuracy of the result."""
