"""Parts of commands that talk to a person: arguments, tables and progress on a terminal."""
