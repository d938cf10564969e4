"""A client of RTSP cameras: a session, its RTP packets, and the media that they carry.

FFmpeg never connects to a camera over RTSP. Its own client returns a picture only when the next one
begins, and a read of it cannot be bounded or stopped.

media      the tracks of a session as FFmpeg's packets; what the rest of `decode` imports
session    one connection: log in, play, receive
messages   requests, answers and places, parsed without trust
datagrams  RTP over UDP, put in order
packets    access units of H.264, H.265 and sound from RTP packets, and their times
relay      the session, served on the loopback, for codecs that only FFmpeg depacketises
"""
