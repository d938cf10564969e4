"""Where things stand in a picture: in which area, on which side of a line, how many metres on."""
