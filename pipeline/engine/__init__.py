"""The loop of a worker that runs stages and commits their outputs; messages to the supervisor."""
