"""YAMNet: log-mel, the gate in front of the network, the network."""
