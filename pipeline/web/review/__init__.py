"""Episodes, visits and what was unseen, with their pages."""
