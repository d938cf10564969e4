"""The loop of a worker: what waits, what runs, what is committed; messages to the supervisor."""
