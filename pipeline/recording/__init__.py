"""Recordings: packets of a source as they came, in files that play, with an index of them.

What is here knows bytes and times, no codecs: `stages.decode.muxing` makes fragments of packets.
"""
