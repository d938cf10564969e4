"""Counters, the status of a run and of its sources, Prometheus metrics."""
