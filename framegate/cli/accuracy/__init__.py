"""Commands that measure how good results are."""
