"""The store: the hop, connections of the hot path, clusters, administration of a run, the embedded
server and its port for readers, retention.
"""
