"""Decoder threads of files and cameras, credit, pace and epochs; decoded frames become records."""
