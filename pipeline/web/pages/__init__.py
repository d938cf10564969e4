"""HTML pages: how they are served, and the parts that they share."""
