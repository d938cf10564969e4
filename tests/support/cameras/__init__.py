"""Camera servers on loopback, and what goes wrong between them and us."""
