"""A run: supervisor and workers, their restarts, sources, the data folder, the control socket,
ended runs.
"""
