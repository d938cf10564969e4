"""Delivery of episodes to other systems, in a process with a thread for each sink."""
