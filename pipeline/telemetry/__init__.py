"""Counters and latency histograms, the status of a run and of its sources, tables of it, Prometheus
metrics.
"""
