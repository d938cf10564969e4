"""The promise in operation: drawn frames, alarms, certificates."""
