"""Search of visits by example: the labels of real visits, and the questions about them."""
