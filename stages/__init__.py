"""The nodes of the graph, one file each: the only place that knows engine and models both."""
