"""Cameras and this machine before a run, for `init` and `check`: probes, capacity, a new file."""
