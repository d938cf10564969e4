"""Geometry of a picture: areas, lines, positions on the ground, and whether the camera moved."""
