"""A run: supervisor and workers, deaths and their blame, sources, the data folder, the control
socket, ended runs.
"""
