"""Sound classification: the log-mel input, the gate in front of the network, and YAMNet."""
