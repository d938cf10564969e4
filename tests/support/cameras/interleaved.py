"""What an RTSP server sends over TCP, taken apart and put together again."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

_LENGTH = re.compile(rb"^content-length:\s*(\d+)", re.IGNORECASE | re.MULTILINE)
_SENDER_REPORT = 200


@dataclass(frozen=True)
class Piece:
    """A whole unit: an RTSP answer (channel None), or one RTP or RTCP packet of a channel."""

    data: bytes
    channel: int | None = None

    def __bytes__(self) -> bytes:
        if self.channel is None:
            return self.data
        return struct.pack("!cBH", b"$", self.channel, len(self.data)) + self.data

    @property
    def is_rtp(self) -> bool:
        """Media; these come on the even channels."""
        return self.channel is not None and self.channel % 2 == 0 and len(self.data) > 12

    @property
    def ends_picture(self) -> bool:
        """The last media packet of a picture, by RTP's marker."""
        return self.is_rtp and self.data[1] >= 128

    @property
    def is_sender_report(self) -> bool:
        """RTCP that says which wall-clock time belongs to which RTP time."""
        return self.channel is not None and self.channel % 2 == 1 and self._type == _SENDER_REPORT

    @property
    def _type(self) -> int | None:
        return self.data[1] if len(self.data) >= 20 else None

    @property
    def stamp(self) -> int:
        """RTP time of a media packet or a sender report, in the units of its clock."""
        (found,) = struct.unpack_from("!I", self.data, 4 if self.is_rtp else 16)
        return int(found)

    def at(self, stamp: int) -> Piece:
        """The same at another RTP time."""
        changed = bytearray(self.data)
        struct.pack_into("!I", changed, 4 if self.is_rtp else 16, stamp % (1 << 32))
        return Piece(bytes(changed), self.channel)

    def later(self, seconds: int) -> Piece:
        """A sender report whose clock is ahead by so much."""
        changed = bytearray(self.data)
        (now,) = struct.unpack_from("!I", changed, 8)
        struct.pack_into("!I", changed, 8, (now + seconds) % (1 << 32))
        return Piece(bytes(changed), self.channel)

    def spoilt(self) -> Piece:
        """A media packet whose header is right and whose payload is not.

        The first two bytes of the payload say how pictures are cut into packets: they stay.
        """
        payload = bytes(255 - byte for byte in self.data[14:])
        return Piece(self.data[:14] + payload, self.channel)


class Splitter:
    """Bytes as they come, in whole pieces; what is not whole yet is kept."""

    def __init__(self) -> None:
        self._kept = b""

    def feed(self, data: bytes) -> Iterator[Piece]:
        """The pieces that are whole now."""
        self._kept += data
        while (length := self._first_length()) is not None and length <= len(self._kept):
            piece, self._kept = self._kept[:length], self._kept[length:]
            yield Piece(piece[4:], piece[1]) if piece[:1] == b"$" else Piece(piece)

    def _first_length(self) -> int | None:
        if self._kept[:1] == b"$":
            return 4 + int.from_bytes(self._kept[2:4], "big") if len(self._kept) >= 4 else None
        end = self._kept.find(b"\r\n\r\n")
        if end < 0:
            return None
        body = _LENGTH.search(self._kept[:end])
        return end + 4 + (int(body[1]) if body else 0)
