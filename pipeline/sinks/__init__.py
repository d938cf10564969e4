"""Delivery of episodes to other systems: one process with a thread per sink; positions are in
the store.
"""
