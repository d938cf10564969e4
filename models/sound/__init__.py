"""Recognise sounds: log-mel, a gate in front of the network, and the network (YAMNet)."""
