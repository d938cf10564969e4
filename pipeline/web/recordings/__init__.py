"""Recordings: playlists, files, single pictures, thumbnails, and their page."""
