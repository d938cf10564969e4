"""Pictures for learning: from files, kept during a run, or labelled by people."""
