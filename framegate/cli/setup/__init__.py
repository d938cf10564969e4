"""The commands `init` and `check`, their probes of cameras, and the capacity of this machine."""
