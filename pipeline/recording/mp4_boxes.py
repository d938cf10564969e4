"""The boxes of an MP4 (ISO/IEC 14496-12), as far as a recording needs them.

A file of a recording is an init part (`ftyp`, `moov`), our own `uuid` box, and fragments of
`prft`, `moof` and `mdat`. So it can be played alone, grows by whole fragments, and contains all
that the index knows about it.
"""

from __future__ import annotations

import io
import struct
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final

import msgspec

_OURS: Final = uuid.uuid5(uuid.NAMESPACE_URL, "https://framegate.org/recording").bytes
_SINCE_1900: Final = 2_208_988_800  # seconds from the epoch of NTP to that of UNIX
_ERA_S: Final = 1 << 32  # of NTP, whose seconds restart at 0 in February 2036
LATEST: Final = 4_233_000_000.0  # UNIX seconds: in 2104, shortly before NTP's second era ends
_CAPTURE: Final = 24  # flags of prft: the time at which a frame was captured
_NO_SYNC: Final = 0x10000  # of a sample's flags: it needs others to be decoded
_MAX_BOX: Final = 1 << 31  # bytes
_MAX_SAMPLES: Final = 1 << 20  # of a fragment, which holds a second
_MAX_HEAD: Final = 1 << 20  # bytes of a box before the first fragment


class NotWhole(ValueError):
    """Bytes that are not the boxes of a recording, or end within one."""


@dataclass(frozen=True, slots=True)
class Mp4Box:
    """A box: its type, and the offsets of its begin, its contents and its end."""

    kind: bytes
    at: int
    body: int
    end: int


@dataclass(frozen=True, slots=True)
class Mp4Track:
    """A track of an init part.

    kind   vide or soun
    ticks  units of time per second
    duration, flags  defaults for samples whose fragment has none
    """

    number: int
    kind: str
    ticks: int
    duration: int = 0
    flags: int = 0


@dataclass(frozen=True, slots=True)
class Fragment:
    """The video samples of a fragment; times are seconds on the file's clock.

    dts       decoding time of the first sample
    end       decoding time of the sample after the last
    pts, pts_end  begin of the first picture that is shown, and end of the last
    is_key    the first picture needs no other
    samples   number of pictures
    sound     end of the fragment's sound; None: it has none
    """

    dts: float
    end: float
    pts: float
    pts_end: float
    is_key: bool
    samples: int
    sound: float | None


class Head(msgspec.Struct, frozen=True):
    """The content of a file's `uuid` box.

    shift_s  the file's times minus the source's: a file has no times below 0
    """

    source: str
    shift_s: float = 0.0


def boxes(data: bytes | memoryview, at: int = 0, end: int | None = None) -> Iterator[Mp4Box]:
    """Yield the boxes of these bytes. NotWhole: one does not end in them."""
    end = len(data) if end is None else end
    while at < end:
        if at + 8 > end:
            raise NotWhole("cut off within the head of a box")
        size, kind = struct.unpack_from(">I4s", data, at)
        body = at + 8
        if size == 1:
            if at + 16 > end:
                raise NotWhole("cut off within the head of a box")
            (size,) = struct.unpack_from(">Q", data, at + 8)
            body = at + 16
        if size < body - at or at + size > end:
            raise NotWhole(f"a box {kind!r} of {size} bytes does not end here")
        yield Mp4Box(kind, at, body, at + size)
        at += size


def _inner(data: bytes | memoryview, box: Mp4Box, *path: bytes) -> Iterator[Mp4Box]:
    """Yield the boxes at a path within a box."""
    for inner in boxes(data, box.body, box.end):
        if inner.kind == path[0]:
            if len(path) == 1:
                yield inner
            else:
                yield from _inner(data, inner, *path[1:])


def _first(data: bytes | memoryview, box: Mp4Box, *path: bytes) -> Mp4Box:
    match = next(_inner(data, box, *path), None)
    if match is None:
        raise NotWhole(f"there is no {b'/'.join(path).decode()} in it")
    return match


def read_init(data: bytes | memoryview) -> dict[int, Mp4Track]:
    """Return the tracks of an init part, by number. NotWhole."""
    try:
        moov = next(box for box in boxes(data) if box.kind == b"moov")
        tracks = {}
        for trak in _inner(data, moov, b"trak"):
            tkhd = _first(data, trak, b"tkhd")
            mdhd = _first(data, trak, b"mdia", b"mdhd")
            hdlr = _first(data, trak, b"mdia", b"hdlr")
            number = _uint(data, tkhd.body + (20 if data[tkhd.body] else 12))
            ticks = _uint(data, mdhd.body + (20 if data[mdhd.body] else 12))
            kind = bytes(data[hdlr.body + 8 : hdlr.body + 12]).decode("latin-1")
            tracks[number] = Mp4Track(number, kind, ticks or 1)
        for trex in _inner(data, moov, b"mvex", b"trex"):
            number, _, duration, _, flags = struct.unpack_from(">5I", data, trex.body + 4)
            track = tracks[number]
            tracks[number] = Mp4Track(number, track.kind, track.ticks, duration, flags)
    except (StopIteration, KeyError, struct.error, IndexError) as error:
        raise NotWhole("its init part cannot be read") from error
    return tracks


def read_fragment(moof: bytes | memoryview, tracks: dict[int, Mp4Track]) -> Fragment | None:
    """Return the content of a `moof` box; None if it has no pictures. NotWhole."""
    try:
        return _fragment(moof, tracks)
    except (StopIteration, KeyError, struct.error, IndexError) as error:
        raise NotWhole("a fragment of it cannot be read") from error


def _fragment(data: bytes | memoryview, tracks: dict[int, Mp4Track]) -> Fragment | None:
    (whole,) = boxes(data)
    runs: dict[str, _SampleRun] = {}
    for traf in _inner(data, whole, b"traf"):
        tfhd = _first(data, traf, b"tfhd")
        track = tracks[_uint(data, tfhd.body + 4)]
        run = _samples(data, traf, tfhd, track)
        if run.shown:
            runs[track.kind] = run
    pictures = runs.get("vide")
    sound = runs.get("soun")
    if pictures is None:
        return None
    return Fragment(
        dts=pictures.begin,
        end=pictures.end,
        pts=min(pictures.shown),
        pts_end=pictures.shown_end,
        is_key=pictures.is_key,
        samples=len(pictures.shown),
        sound=None if sound is None else sound.end,
    )


@dataclass(frozen=True, slots=True)
class _SampleRun:
    """Samples of a track; times in seconds."""

    begin: float
    end: float
    shown: list[float]
    shown_end: float
    is_key: bool


def _samples(data: bytes | memoryview, traf: Mp4Box, tfhd: Mp4Box, track: Mp4Track) -> _SampleRun:
    # `at` always is the offset of the next field: each set flag means that one field is present.
    present = _uint(data, tfhd.body)
    at = tfhd.body + 8
    default_duration = track.duration
    default_flags = track.flags
    if present & 0x1:
        at += 8
    if present & 0x2:
        at += 4
    if present & 0x8:
        default_duration = _uint(data, at)
        at += 4
    if present & 0x10:
        at += 4
    if present & 0x20:
        default_flags = _uint(data, at)
    tfdt = _first(data, traf, b"tfdt")
    (dts,) = struct.unpack_from(">Q" if data[tfdt.body] else ">I", data, tfdt.body + 4)
    shown: list[float] = []
    begin = dts
    shown_end = 0
    is_key = False
    for trun in _inner(data, traf, b"trun"):
        present = _uint(data, trun.body)
        count = _uint(data, trun.body + 4)
        at = trun.body + 8
        offset_format = ">i" if data[trun.body] else ">I"
        if present & 0x1:
            at += 4
        flags = default_flags
        if present & 0x4:
            flags = _uint(data, at)
            at += 4
        if count > _MAX_SAMPLES:
            raise NotWhole(f"a fragment of {count} samples")
        for _ in range(count):
            duration = default_duration
            offset = 0
            if present & 0x100:
                duration = _uint(data, at)
                at += 4
            if present & 0x200:
                at += 4
            if present & 0x400:
                flags = _uint(data, at)
                at += 4
            if present & 0x800:
                (offset,) = struct.unpack_from(offset_format, data, at)
                at += 4
            is_key = is_key or (not shown and not flags & _NO_SYNC)
            shown.append((dts + offset) / track.ticks)
            shown_end = max(shown_end, dts + offset + duration)
            dts += duration
            flags = default_flags
    ticks = track.ticks
    return _SampleRun(begin / ticks, dts / ticks, shown, shown_end / ticks, is_key)


def _uint(data: bytes | memoryview, at: int) -> int:
    (value,) = struct.unpack_from(">I", data, at)
    return int(value)


# -- The boxes that we write.


def head_box(head: Head) -> bytes:
    """Return the `uuid` box of a file."""
    text = msgspec.json.encode(head)
    return struct.pack(">I4s", 24 + len(text), b"uuid") + _OURS + text


def writable(captured: float) -> float:
    """Return the time nearest to `captured`, UNIX seconds, that a file can store: from 1970 to
    2104, in microseconds. Not a number becomes 1970.
    """
    if not captured > 0.0:
        return 0.0
    return round(min(captured, LATEST), 6)


def time_box(track: Mp4Track, captured: float, dts: float) -> bytes:
    """Return a `prft` box: the picture decoded at `dts` was captured at `captured`, UNIX seconds
    from `writable`.
    """
    whole, part = divmod(captured, 1)
    ntp = ((int(whole) + _SINCE_1900) % _ERA_S << 32) | int(part * (1 << 32))
    media = round(dts * track.ticks)
    return struct.pack(">I4sIIQQ", 32, b"prft", 1 << 24 | _CAPTURE, track.number, ntp, media)


def _captured(data: bytes, body: int) -> float:
    """Return the time of a `prft` box; its first bit is 0 in the second era (RFC 4330)."""
    (ntp,) = struct.unpack_from(">Q", data, body + 8)
    seconds = (ntp >> 32) - _SINCE_1900
    if ntp >> 63 == 0:
        seconds += _ERA_S
    return writable(seconds + (ntp & 0xFFFFFFFF) / (1 << 32))


# -- A file, up to its last whole fragment.


@dataclass(frozen=True, slots=True)
class FileContents:
    """The whole fragments of a file of a recording.

    init       its init part
    info       the content of its `uuid` box
    head       bytes before the first fragment
    nbytes     up to the end of the last whole fragment
    fragments  each with the UNIX seconds at which its first picture was captured
    """

    init: bytes
    info: Head
    head: int
    nbytes: int
    fragments: tuple[tuple[Fragment, float], ...]


def read_file(file: BinaryIO | io.FileIO) -> FileContents:
    """Read a file that may be cut off anywhere and end with zeros after a power cut. Only the heads
    of its fragments are read. NotWhole: it has no whole fragment.
    """
    # Invariant: all boxes before `at` are whole; `whole` is the end of the last whole fragment.
    init = b""
    info: Head | None = None
    tracks: dict[int, Mp4Track] = {}
    fragments: list[tuple[Fragment, float]] = []
    at = 0
    head = 0
    whole = 0
    captured: float | None = None
    pending: Fragment | None = None
    size = file.seek(0, 2)
    while at + 8 <= size:
        file.seek(at)
        length, kind = struct.unpack(">I4s", file.read(8))
        if length < 8 or at + length > size:
            break
        if kind != b"mdat":
            if length > (_MAX_BOX if fragments else _MAX_HEAD):
                break
            file.seek(at)
            data = file.read(length)
        if kind in (b"ftyp", b"moov"):
            init += data
            if kind == b"moov":
                tracks = read_init(init)
        elif kind == b"uuid" and data[8:24] == _OURS:
            info = _read_head(data[24:])
            head = at + length
        elif kind == b"prft" and length >= 24:
            captured = _captured(data, 8)
        elif kind == b"moof":
            try:
                pending = read_fragment(data, tracks)
            except NotWhole:
                break
        elif kind == b"mdat":
            if pending is not None and captured is not None:
                fragments.append((pending, captured))
            pending = None
            whole = at + length
        at += length
    if info is None or not fragments:
        raise NotWhole("there is no whole fragment in it")
    return FileContents(init, info, head, whole, tuple(fragments))


def _read_head(text: bytes) -> Head:
    try:
        return msgspec.json.decode(text, type=Head)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise NotWhole("it does not name its source") from error
