"""The engine of a worker: what waits, what runs, what is committed."""
