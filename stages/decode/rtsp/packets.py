"""Assemble H.264, H.265 and sound from RTP packets, with their times.

The packets are in order; `datagrams` sorts those that arrive over UDP.

FFmpeg's demuxer ignores RTP's marker and ends a picture when the next one begins, a whole frame
interval later. Apart from that, units and times equal FFmpeg's byte for byte.

Invariants of PictureUnits: `_parts` holds whole NAL units and at most one begun fragment, all of
one access unit, in order; `_has_slice` is set once one of them is a slice of a picture. A unit is
returned at most once: by a trusted marker or by the begin of the next unit.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

MAX_BYTES: Final = 16 << 20  # of a picture
TRUSTED: Final = 5  # correct markers in a row after which a marker ends a unit

_START: Final = b"\0\0\0\1"
_NTP_ERA_S: Final = 2_208_988_800  # from 1900 to 1970
_SENDER_REPORT: Final = 200
_GOODBYE: Final = 203
_RECOVERY_POINT: Final = 6
_AAC_SAMPLES: Final = 1024
# A packet has at most 65,535 bytes, and Python takes microseconds for each part of it. Encoders
# write a few parts; a packet with thousands was made to cost time.
_MAX_IN_PACKET: Final = 256
_MAX_MESSAGES: Final = 64


class UnitTooLargeError(Exception):
    """A picture has more than MAX_BYTES and is not complete."""


class RtpPacket(NamedTuple):
    """The fields of an RTP packet that are used here (RFC 3550, 5.1)."""

    payload_type: int
    marker: bool
    stamp: int
    payload: bytes

    @classmethod
    def of(cls, data: bytes) -> RtpPacket | None:
        """Return a packet without padding and header extension; None if the bytes are not RTP."""
        if len(data) < 12 or data[0] >> 6 != 2:
            return None
        head, marked, _, stamp = struct.unpack_from("!BBHI", data)
        begin = 12 + 4 * (head & 15)
        end = len(data)
        if head & 0x10:
            begin += 4 + 4 * int.from_bytes(data[begin + 2 : begin + 4])
        if head & 0x20:
            end -= data[-1]
        return cls(marked & 127, marked >= 128, stamp, data[begin:end])


# -- Pictures. FFmpeg's parsers define where a unit begins.


class AccessUnit(NamedTuple):
    """A coded picture with the units before it, as Annex B, or a piece of sound.

    stamp  of its first packet
    """

    data: bytes
    stamp: int
    is_key: bool


class PictureUnits:
    """Assembles access units of H.264 (RFC 6184) or H.265 (RFC 7798). One track.

    A unit ends when the next begins. After TRUSTED correct markers in a row, it ends with RTP's
    marker. Once a marker was followed by more of the same unit, markers are never trusted again.
    """

    def __init__(self, codec: str) -> None:
        """codec: h264 or hevc."""
        self._is_h264 = codec == "h264"
        self._parts: list[bytes] = []
        self._size = 0
        self._stamp = 0
        self._has_slice = False
        self._is_key = False
        self._recovers = False
        self._ends = False  # the last packet had a marker
        self._first_block = 0
        self._correct: int | None = 0  # markers in a row that ended a unit; None: one did not

    def add(self, stamp: int, marker: bool, payload: bytes) -> list[AccessUnit]:
        """Take a packet; return the units that it ends. UnitTooLargeError."""
        over: list[AccessUnit] = []
        if self._is_h264:
            at, fragment, aggregate, max_single = 1, 28, 24, 23
        else:
            at, fragment, aggregate, max_single = 2, 49, 48, 47
        if len(payload) < at:
            return over
        kind = self._kind(payload)
        if kind == fragment:
            if payload[at : at + 1] >= b"\x80":  # the first fragment of a unit
                self._begin(self._head(payload) + payload[at + 1 :], stamp, over)
            elif self._parts or self._has_slice:
                self._continue()
                self._keep(payload[at + 1 :])
        elif kind == aggregate:
            for begin, end in _aggregated(payload, at):
                self._begin(payload[begin:end], stamp, over)
        elif kind <= max_single:
            self._begin(payload, stamp, over)
        self._ends = marker and self._has_slice
        # Without parts, an earlier marker ended it.
        if self._ends and self._are_markers_trusted() and self._parts:
            over.append(self._take())
        return over

    def rest(self) -> list[AccessUnit]:
        """Return the begun unit if it may be whole: no packet came for a while.

        It has a slice, and markers are not trusted. Otherwise its marker would have ended it.
        """
        if self._are_markers_trusted() or not self._has_slice or not self._parts:
            return []
        return [self._take()]

    def _are_markers_trusted(self) -> bool:
        return self._correct is not None and self._correct >= TRUSTED

    def _kind(self, unit: bytes) -> int:
        return unit[0] & 31 if self._is_h264 else unit[0] >> 1 & 63

    def _head(self, payload: bytes) -> bytes:
        """Return the header of the unit that begins with this fragment."""
        if self._is_h264:
            return bytes((payload[0] & 0xE0 | payload[1] & 31,))
        return bytes((payload[0] & 0x81 | (payload[2] & 63) << 1, payload[1]))

    def _begin(self, unit: bytes, stamp: int, over: list[AccessUnit]) -> None:
        kind = self._kind(unit)
        role = self._h264_role if self._is_h264 else self._hevc_role
        is_slice, begins = role(kind, unit)
        if begins and self._has_slice:
            if self._parts:
                over.append(self._take())
            if self._correct is not None:
                self._correct = self._correct + 1 if self._ends else 0
            self._has_slice = False
            self._recovers = False
            self._ends = False
        else:
            self._continue()
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
        """Return whether a unit is a slice, and whether it begins an access unit after a slice."""
        if kind not in (1, 2, 5):
            return False, 6 <= kind <= 9
        before, self._first_block = self._first_block, _first_block(unit)
        return True, self._first_block <= before

    def _hevc_role(self, kind: int, unit: bytes) -> tuple[bool, bool]:
        """Return whether a unit is a first slice, and whether it begins an access unit."""
        if unit[0] & 1 or unit[1] >> 3:  # another layer
            return False, False
        if kind <= 9 or 16 <= kind <= 21:
            is_first = unit[2:3] >= b"\x80"
            return is_first, is_first
        return False, 32 <= kind <= 37 or kind == 39 or 41 <= kind <= 44 or 48 <= kind <= 55

    def _continue(self) -> None:
        if self._ends:  # the marker was wrong: the access unit continues
            self._correct = None
            self._ends = False

    def _keep(self, part: bytes) -> None:
        self._parts.append(part)
        self._size += len(part)
        if self._size > MAX_BYTES:
            raise UnitTooLargeError

    def _take(self) -> AccessUnit:
        unit = AccessUnit(b"".join(self._parts), self._stamp, self._is_key)
        self._parts.clear()
        self._size = 0
        self._is_key = False
        return unit


def _first_block(unit: bytes) -> int:
    """Return first_mb_in_slice, the first number of an H.264 slice, ue(v)."""
    bits = int.from_bytes(unit[1:9].ljust(8, b"\0"))
    zeros = 64 - bits.bit_length()
    return (bits >> max(0, 63 - 2 * zeros)) - 1


def _aggregated(payload: bytes, at: int) -> Iterator[tuple[int, int]]:
    """Yield begin and end of the units of an aggregation packet; `at`: after its header.

    Units after the first _MAX_IN_PACKET are ignored.
    """
    for _ in range(_MAX_IN_PACKET):
        begin = at + 2
        if begin >= len(payload):
            return
        at = begin + (payload[begin - 2] << 8 | payload[begin - 1])
        if begin + 1 < at <= len(payload):
            yield begin, at


def _recovers(unit: bytes) -> bool:
    """Return whether an H.264 SEI unit marks a recovery point: decoding may begin here.

    Only its first _MAX_MESSAGES messages are read.
    """
    at = 1
    for _ in range(_MAX_MESSAGES):
        if len(unit) - at <= 2:
            return False
        kind, at = _sei_number(unit, at)
        size, at = _sei_number(unit, at)
        if kind == _RECOVERY_POINT:
            return True
        at += size
    return False


def _sei_number(unit: bytes, at: int) -> tuple[int, int]:
    """Return a kind or a size of SEI and its end; each byte of 255 adds 255."""
    number = 0
    while at < len(unit) and unit[at] == 255:
        number += 255
        at += 1
    last = unit[at] if at < len(unit) else 0
    return number + last, at + 1


# -- Sound.


class SoundUnits:
    """The payload of each packet, unchanged: for PCM and codecs with one frame a packet."""

    def add(self, stamp: int, marker: bool, payload: bytes) -> list[AccessUnit]:  # noqa: ARG002
        """Take a packet; return its unit."""
        return [AccessUnit(payload, stamp, True)] if payload else []

    def rest(self) -> list[AccessUnit]:
        """Return nothing: no unit is kept."""
        return []


class AacUnits(SoundUnits):
    """Units of AAC (RFC 3640): several in a packet, or one in several packets."""

    def __init__(self, size_bits: int, index_bits: int, more_index_bits: int) -> None:
        """Bits of a unit's size, of the index of a packet's first unit, and of later indexes."""
        self._size_bits = size_bits
        self._index_bits = (index_bits, more_index_bits)
        self._begun = b""
        self._whole = 0  # size of the unit that has begun

    def add(self, stamp: int, marker: bool, payload: bytes) -> list[AccessUnit]:  # noqa: ARG002
        """Take a packet; return the units that it ends. Damaged units are dropped."""
        at, sizes = self._sizes(payload)
        units = []
        if len(sizes) == 1 and sizes[0] > len(payload) - at:
            if sizes[0] != self._whole:
                self._begun = b""
            self._begun += payload[at:]
            self._whole = sizes[0]
            if len(self._begun) < self._whole:
                return []
            units.append(AccessUnit(self._begun[: self._whole], stamp, True))
        else:
            for number, size in enumerate(sizes):
                if at + size > len(payload):
                    break
                if size:  # a packet without bytes means the end of a track to FFmpeg
                    unit = payload[at : at + size]
                    units.append(AccessUnit(unit, stamp + number * _AAC_SAMPLES, True))
                at += size
        self._begun = b""
        self._whole = 0
        return units

    def _sizes(self, payload: bytes) -> tuple[int, list[int]]:
        """Return the offset of a packet's units and their sizes.

        A packet that ends before its units has none. Units after the first _MAX_IN_PACKET are
        ignored.
        """
        bits = int.from_bytes(payload[:2])
        at = 2 + -(-bits // 8)
        heads = payload[2:at]
        sizes: list[int] = []
        if at > len(payload):
            return at, sizes
        bit = 0
        index_bits, more_index_bits = self._index_bits
        while len(sizes) < _MAX_IN_PACKET:
            end = bit + self._size_bits + index_bits
            if end > bits or end == bit:
                break
            sizes.append(_bits(heads, bit, self._size_bits))
            bit = end
            index_bits = more_index_bits
        return at, sizes


def _bits(data: bytes, at: int, count: int) -> int:
    """Return the number of `count` bits, at most 16, from bit `at` on; zeros follow the data."""
    window = int.from_bytes(data[at // 8 : at // 8 + 3].ljust(3, b"\0"))
    return window >> (24 - at % 8 - count) & ((1 << count) - 1)


# -- Times.


class RtpOrigin:
    """The common origin of a camera's tracks: NTP time and ticks of the first report of any."""

    def __init__(self) -> None:
        self.ntp: int | None = None
        self.ticks = 0
        self.hz = 1


class RtpClock:
    """The times of a track: ticks since its first packet, and UNIX time. One thread.

    With several tracks, ticks follow the camera's reports after the first one, so that pictures and
    sound of one moment have one time.
    """

    def __init__(self, hz: int, origin: RtpOrigin | None = None) -> None:
        """origin: shared by all tracks, None for a single track."""
        self._hz = hz
        self._origin = origin
        self._last = 0
        self._ticks = 0
        self._first: int | None = None
        self._report: tuple[int, int] | None = None  # NTP time in 1 / 2**32 s, count

    def begin(self, stamp: int) -> None:
        """Begin the count at this stamp, unless it has begun."""
        if self._first is None:
            self._first = self._last = stamp

    def ticks(self, stamp: int) -> int:
        """Return the ticks of a stamp, without the stamp's wraps."""
        self.begin(stamp)
        self._ticks = self._count(stamp)
        self._last = stamp
        origin = self._origin
        if self._report is None or origin is None:
            return self._ticks
        ntp, at = self._report
        assert origin.ntp is not None
        passed = (_signed(ntp - origin.ntp, 64) * self._hz + (1 << 31)) >> 32
        return round(origin.ticks * self._hz / origin.hz) + passed + self._ticks - at

    def _count(self, stamp: int) -> int:
        """Return the stamp's distance from the first one, without the stamp's wraps.

        A camera may report once only, and 32 bits at 90 kHz are 13 hours. So a report is kept with
        its count, and never compared with a later stamp.
        """
        return self._ticks + _signed(stamp - self._last)

    def see(self, packet: bytes) -> bool:
        """Take an RTCP packet: a sender report relates stamps to UNIX seconds. Return whether the
        camera ends the stream (RFC 3550, 6.4.1 and 6.6).
        """
        is_over = False
        at = 0
        while at + 4 <= len(packet):
            kind = packet[at + 1]
            words = int.from_bytes(packet[at + 2 : at + 4])
            if kind == _SENDER_REPORT and at + 20 <= len(packet):
                ntp, stamp = struct.unpack_from("!QI", packet, at + 8)
                self.begin(stamp)
                if ntp:  # 0: the camera has no wall clock
                    self._take_report(ntp, stamp)
            is_over |= kind == _GOODBYE
            at += 4 + 4 * words
        return is_over

    def _take_report(self, ntp: int, stamp: int) -> None:
        count = self._count(stamp)
        self._report = ntp, count
        if self._origin is not None and self._origin.ntp is None:
            self._origin.ntp = ntp
            self._origin.hz = self._hz
            self._origin.ticks = count

    def captured(self, stamp: int) -> float | None:
        """Return the UNIX seconds of a stamp by the camera's clock; None before a report. NTP's
        era is taken as the first one, which `camera_time` corrects.
        """
        if self._report is None:
            return None
        ntp, at = self._report
        return ntp / (1 << 32) - _NTP_ERA_S + (self._count(stamp) - at) / self._hz


def _signed(difference: int, bits: int = 32) -> int:
    """Return a difference of numbers that wrap after `bits` bits."""
    half = 1 << (bits - 1)
    return (difference + half) % (2 * half) - half
