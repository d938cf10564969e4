"""What rules said, to look through: a database made of the stream of the stage `events`."""
