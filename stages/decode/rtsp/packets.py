"""Assemble H.264, H.265 and sound from RTP packets, with their times. Pure.

FFmpeg's demuxer ignores the marker of RTP and ends a picture where the next one begins, a whole
frame interval later. Units and times are otherwise equal to FFmpeg's, byte for byte.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

MAX_BYTES: Final = 16 << 20  # of a picture
TRUSTED: Final = 5

_START: Final = b"\0\0\0\1"
_NTP_ERA_S: Final = 2_208_988_800  # from 1900 to 1970
_SENDER_REPORT: Final = 200
_GOODBYE: Final = 203
_RECOVERY_POINT: Final = 6
_AAC_SAMPLES: Final = 1024
# A packet has at most 65,535 bytes, and Python takes microseconds for each part of it. Encoders
# write a few parts; a packet of thousands is made to cost time.
_MOST_IN_PACKET: Final = 256
_MOST_MESSAGES: Final = 64


class UnitTooLargeError(Exception):
    """More bytes came than a picture may have, and it was not complete."""


class RtpPacket(NamedTuple):
    """The parts of one that are used here (RFC 3550, 5.1)."""

    payload_type: int
    marker: bool
    stamp: int
    payload: bytes

    @classmethod
    def of(cls, data: bytes) -> RtpPacket | None:
        """Without padding and what extends the header; None if it is none."""
        if len(data) < 12 or data[0] >> 6 != 2:
            return None
        head, marked, _, stamp = struct.unpack_from("!BBHI", data)
        begin, end = 12 + 4 * (head & 15), len(data)
        if head & 0x10:
            begin += 4 + 4 * int.from_bytes(data[begin + 2 : begin + 4])
        if head & 0x20:
            end -= data[-1]
        return cls(marked & 127, marked >= 128, stamp, data[begin:end])


# -- Pictures. What begins one is what FFmpeg's parsers take for it.


class AccessUnit(NamedTuple):
    """A coded picture and what stands before it, as Annex B, or a piece of sound; stamp: of its
    first packet.
    """

    data: bytes
    stamp: int
    is_key: bool


class PictureUnits:
    """Puts access units of H.264 (RFC 6184) or H.265 (RFC 7798) together; of one track.

    A unit is over when the next begins; with RTP's marker as well, once that was right with
    TRUSTED units in a row. A camera that marks where a unit goes on is never believed again.
    """

    def __init__(self, codec: str) -> None:
        """codec: h264 or hevc."""
        self._is_h264 = codec == "h264"
        self._parts: list[bytes] = []
        self._size = self._stamp = 0
        self._has_slice = self._is_key = self._recovers = self._ends = False
        self._first_block = 0
        self._right: int | None = 0  # units that ended with a marker; None: one did not

    def add(self, stamp: int, marker: bool, payload: bytes) -> list[AccessUnit]:
        """Take a packet; give the units that are over. UnitTooLargeError."""
        over: list[AccessUnit] = []
        if self._is_h264:
            at, fragment, aggregate, most = 1, 28, 24, 23
        else:
            at, fragment, aggregate, most = 2, 49, 48, 47
        if len(payload) < at:
            return over
        kind = self._kind(payload)
        if kind == fragment:
            if payload[at : at + 1] >= b"\x80":
                self._begin(self._head(payload) + payload[at + 1 :], stamp, over)
            elif self._parts or self._has_slice:
                self._go_on()
                self._keep(payload[at + 1 :])
        elif kind == aggregate:
            for begin, end in _aggregated(payload, at):
                self._begin(payload[begin:end], stamp, over)
        elif kind <= most:
            self._begin(payload, stamp, over)
        self._ends = marker and self._has_slice
        is_trusted = self._right is not None and self._right >= TRUSTED
        if self._ends and is_trusted and self._parts:  # else it was given with an earlier marker
            over.append(self._taken())
        return over

    def rest(self) -> list[AccessUnit]:
        """Give what is there of the unit: nothing more came for long."""
        return [self._taken()] if self._has_slice and self._parts else []

    def _kind(self, unit: bytes) -> int:
        return unit[0] & 31 if self._is_h264 else unit[0] >> 1 & 63

    def _head(self, payload: bytes) -> bytes:
        """The header of the unit that begins with this fragment."""
        if self._is_h264:
            return bytes((payload[0] & 0xE0 | payload[1] & 31,))
        return bytes((payload[0] & 0x81 | (payload[2] & 63) << 1, payload[1]))

    def _begin(self, unit: bytes, stamp: int, over: list[AccessUnit]) -> None:
        kind = self._kind(unit)
        is_slice, begins = (self._h264_role if self._is_h264 else self._hevc_role)(kind, unit)
        if begins and self._has_slice:
            if self._parts:
                over.append(self._taken())
            if self._right is not None:
                self._right = self._right + 1 if self._ends else 0
            self._has_slice = self._recovers = self._ends = False
        else:
            self._go_on()
        if not self._parts:
            self._stamp = stamp
        if not self._is_h264:
            self._is_key |= is_slice and kind >= 16
        elif kind == 6:
            self._recovers |= _recovers(unit)
        elif is_slice:
            self._is_key |= kind == 5 or self._recovers
        self._has_slice |= is_slice
        self._keep(_START)
        self._keep(unit)

    def _h264_role(self, kind: int, unit: bytes) -> tuple[bool, bool]:
        """Return whether it is a slice, and whether it begins a unit if one has slices."""
        if kind not in (1, 2, 5):
            return False, 6 <= kind <= 9
        before, self._first_block = self._first_block, _first_block(unit)
        return True, self._first_block <= before

    def _hevc_role(self, kind: int, unit: bytes) -> tuple[bool, bool]:
        """Return whether it is a picture's first slice, and whether it begins a unit."""
        if unit[0] & 1 or unit[1] >> 3:  # of another layer
            return False, False
        if kind <= 9 or 16 <= kind <= 21:
            return (unit[2:3] >= b"\x80",) * 2
        return False, 32 <= kind <= 37 or kind == 39 or 41 <= kind <= 44 or 48 <= kind <= 55

    def _go_on(self) -> None:
        if self._ends:
            self._right, self._ends = None, False

    def _keep(self, part: bytes) -> None:
        self._parts.append(part)
        self._size += len(part)
        if self._size > MAX_BYTES:
            raise UnitTooLargeError

    def _taken(self) -> AccessUnit:
        unit = AccessUnit(b"".join(self._parts), self._stamp, self._is_key)
        self._parts.clear()
        self._size, self._is_key = 0, False
        return unit


def _first_block(unit: bytes) -> int:
    """first_mb_in_slice: the first number of an H.264 slice, ue(v)."""
    bits = int.from_bytes(unit[1:9].ljust(8, b"\0"))
    zeros = 64 - bits.bit_length()
    return (bits >> max(0, 63 - 2 * zeros)) - 1


def _aggregated(payload: bytes, at: int) -> Iterator[tuple[int, int]]:
    """Yield where the units of an aggregation packet begin and end; `at`: after its header.

    Units beyond the first _MOST_IN_PACKET are left out.
    """
    for _ in range(_MOST_IN_PACKET):
        begin = at + 2
        if begin >= len(payload):
            return
        at = begin + (payload[begin - 2] << 8 | payload[begin - 1])
        if begin + 1 < at <= len(payload):
            yield begin, at


def _recovers(unit: bytes) -> bool:
    """Return whether a unit of H.264 SEI says that decoding may begin here.

    Only its first _MOST_MESSAGES messages are read.
    """
    at = 1
    for _ in range(_MOST_MESSAGES):
        if len(unit) - at <= 2:
            return False
        kind, at = _sei_number(unit, at)
        size, at = _sei_number(unit, at)
        if kind == _RECOVERY_POINT:
            return True
        at += size
    return False


def _sei_number(unit: bytes, at: int) -> tuple[int, int]:
    """Read a kind or a size of SEI, which has 255 for each byte of 255; return it and its end."""
    number = 0
    while at < len(unit) and unit[at] == 255:
        number += 255
        at += 1
    last = unit[at] if at < len(unit) else 0
    return number + last, at + 1


# -- Sound.


class SoundUnits:
    """Gives the payload of each packet as it is: PCM and whatever has a frame a packet."""

    def add(self, stamp: int, marker: bool, payload: bytes) -> list[AccessUnit]:  # noqa: ARG002
        """Take a packet; give its unit."""
        return [AccessUnit(payload, stamp, True)] if payload else []

    def rest(self) -> list[AccessUnit]:
        """Nothing is ever kept."""
        return []


class AacUnits(SoundUnits):
    """Units of AAC (RFC 3640): several in a packet, or one in several."""

    def __init__(self, size_bits: int, index_bits: int, more_index_bits: int) -> None:
        """Bits of a unit's size and index; of the index of those after a packet's first."""
        self._size_bits, self._index_bits = size_bits, (index_bits, more_index_bits)
        self._begun = b""
        self._whole = 0  # bytes of the unit that has begun

    def add(self, stamp: int, marker: bool, payload: bytes) -> list[AccessUnit]:  # noqa: ARG002
        """Take a packet; give the units that are over. A damaged one is left out."""
        at, sizes = self._sizes(payload)
        found = []
        if len(sizes) == 1 and sizes[0] > len(payload) - at:
            self._begun = payload[at:] if sizes[0] != self._whole else self._begun + payload[at:]
            self._whole = sizes[0]
            if len(self._begun) < self._whole:
                return []
            found.append(AccessUnit(self._begun[: self._whole], stamp, True))
        else:
            for number, size in enumerate(sizes):
                if at + size > len(payload):
                    break
                if size:  # a packet without bytes means the end of a track to FFmpeg
                    unit = payload[at : at + size]
                    found.append(AccessUnit(unit, stamp + number * _AAC_SAMPLES, True))
                at += size
        self._begun, self._whole = b"", 0
        return found

    def _sizes(self, payload: bytes) -> tuple[int, list[int]]:
        """Return where a packet's units begin, and the size of each.

        There are none where it is cut off before its units. Those after the first _MOST_IN_PACKET
        are left out.
        """
        bits = int.from_bytes(payload[:2])
        at = 2 + -(-bits // 8)
        heads = payload[2:at]
        sizes: list[int] = []
        if at > len(payload):
            return at, sizes
        bit = 0
        for index in (self._index_bits[0], *[self._index_bits[1]] * (_MOST_IN_PACKET - 1)):
            end = bit + self._size_bits + index
            if end > bits or end == bit:
                break
            sizes.append(_bits(heads, bit, self._size_bits))
            bit = end
        return at, sizes


def _bits(data: bytes, at: int, count: int) -> int:
    """Return a number of `count` bits, at most 16, that begins at a bit; zeros follow the data."""
    window = int.from_bytes(data[at // 8 : at // 8 + 3].ljust(3, b"\0"))
    return window >> (24 - at % 8 - count) & ((1 << count) - 1)


# -- Times.


class RtpOrigin:
    """What ties the tracks of a camera together: NTP time and ticks of the first report of any."""

    def __init__(self) -> None:
        self.ntp: int | None = None
        self.ticks, self.hz = 0, 1


class RtpClock:
    """Times of a track: ticks from its first packet on, and by the camera's clock. One thread.

    Where there are several tracks, ticks follow the camera's reports once these came: then what was
    taken at one time has one time.
    """

    def __init__(self, hz: int, origin: RtpOrigin | None = None) -> None:
        """origin: one for all tracks, None where there is but one."""
        self._hz, self._origin = hz, origin
        self._last = self._ticks = 0
        self._first: int | None = None
        self._report: tuple[int, int] | None = None  # NTP time in 1 / 2**32 s, stamp

    def begin(self, stamp: int) -> None:
        """Count from here, unless it has begun: a packet came."""
        if self._first is None:
            self._first = self._last = stamp

    def ticks(self, stamp: int) -> int:
        """The stamp without its wraps."""
        self.begin(stamp)
        if self._report is not None and (origin := self._origin) is not None:
            ntp, at = self._report
            assert origin.ntp is not None
            passed = (_signed(ntp - origin.ntp, 64) * self._hz + (1 << 31)) >> 32
            return round(origin.ticks * self._hz / origin.hz) + passed + _signed(stamp - at)
        self._ticks += _signed(stamp - self._last)
        self._last = stamp
        return self._ticks

    def see(self, packet: bytes) -> bool:
        """Take a packet of RTCP: a sender report ties stamps to UNIX seconds. Return whether the
        camera says goodbye (RFC 3550, 6.4.1 and 6.6).
        """
        is_over, at = False, 0
        while at + 4 <= len(packet):
            kind, words = packet[at + 1], int.from_bytes(packet[at + 2 : at + 4])
            if kind == _SENDER_REPORT and at + 20 <= len(packet):
                ntp, stamp = struct.unpack_from("!QI", packet, at + 8)
                self.begin(stamp)
                if ntp:  # 0: the camera has no wall clock
                    self._take_report(ntp, stamp)
            is_over |= kind == _GOODBYE
            at += 4 + 4 * words
        return is_over

    def _take_report(self, ntp: int, stamp: int) -> None:
        self._report = ntp, stamp
        if self._origin is not None and self._origin.ntp is None:
            self._origin.ntp, self._origin.hz = ntp, self._hz
            self._origin.ticks = _signed(stamp - (self._first or 0))

    def captured(self, stamp: int) -> float | None:
        """Return UNIX seconds by the camera's clock as if NTP's first era never ended, which
        `camera_time` corrects; None as long as the camera tells no time.
        """
        if self._report is None:
            return None
        ntp, at = self._report
        return ntp / (1 << 32) - _NTP_ERA_S + _signed(stamp - at) / self._hz


def _signed(difference: int, bits: int = 32) -> int:
    """Return a difference of numbers that wrap after so many bits."""
    half = 1 << (bits - 1)
    return (difference + half) % (2 * half) - half
