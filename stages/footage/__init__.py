"""Pictures to learn from: of files, kept by a run, or labelled by people. Knows decode and draw."""
