"""Recordings as bytes and times: files that are complete at every moment, their index,
retention, playlists.

Nothing here knows a codec: `stages.decode.muxing` makes fragments of packets.
"""
