"""Label visits of a clip by eye: proposals, contact sheets, decisions, and the file of labels."""
