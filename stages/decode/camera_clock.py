"""When frames were captured by a camera's own clock, as RTCP sender reports tell (RFC 3550 6.4).

FFmpeg ties each packet to the last report: side data "prft" (AVProducerReferenceTime), whose first
eight bytes are microseconds of UNIX time.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from typing import Final

import av
from av.packet import Packet
from av.video.stream import VideoStream

_KEPT: Final = 64


class CameraClock:
    """Matches packets to the frames that come out of the decoder later, by pts. One thread."""

    def __init__(self) -> None:
        self._captured: OrderedDict[int, float] = OrderedDict()

    def see(self, packet: Packet[VideoStream]) -> None:
        """Take note of a packet on its way to the decoder."""
        if packet.pts is None or not packet.has_sidedata("prft"):
            return
        (microseconds,) = struct.unpack_from("=q", bytes(packet.get_sidedata("prft")))
        self._captured[packet.pts] = microseconds / 1e6
        if len(self._captured) > _KEPT:
            self._captured.popitem(last=False)

    def of(self, frame: av.VideoFrame) -> float | None:
        """UNIX seconds at which the camera took the frame, None if it has not told."""
        return self._captured.pop(frame.pts, None) if frame.pts is not None else None
