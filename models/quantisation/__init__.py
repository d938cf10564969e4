"""Networks in 8 bits, and whether they still say the same."""
