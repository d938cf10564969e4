"""The boxes of an MP4 (ISO/IEC 14496-12), as far as a recording needs them. Pure.

A recording's file is an init part (`ftyp`, `moov`), a `uuid` box of ours, and fragments: `prft`,
`moof`, `mdat` each. So it plays by itself, grows by whole fragments, and tells all that the index
knows of it.
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
_ERA_S: Final = 1 << 32  # of NTP: its seconds begin again at 0 in February 2036
LATEST: Final = 4_233_000_000.0  # UNIX seconds: in 2104, shortly before NTP's second era is over
_CAPTURE: Final = 24  # flags of prft: the time at which a frame was taken
_NO_SYNC: Final = 0x10000  # of a sample's flags: it needs others to be decoded
_LARGEST: Final = 1 << 31  # bytes of a box that we wrote, or of which we believe it
_MOST_SAMPLES: Final = 1 << 20  # of a fragment, which holds a second
_MOST_HEAD: Final = 1 << 20  # bytes of the boxes before the first fragment


class NotWhole(ValueError):
    """Bytes that are not the boxes of a recording, or end within one."""


@dataclass(frozen=True, slots=True)
class Mp4Box:
    """A box: its type, where it begins, where its contents do, and where it ends."""

    kind: bytes
    at: int
    body: int
    end: int


@dataclass(frozen=True, slots=True)
class Mp4Track:
    """A track of an init part.

    kind   vide or soun
    ticks  of a second
    duration, flags  of a sample whose fragment does not say them
    """

    number: int
    kind: str
    ticks: int
    duration: int = 0
    flags: int = 0


@dataclass(frozen=True, slots=True)
class Fragment:
    """What a fragment holds of the video track; times are seconds on the file's clock.

    dts       when its first sample is decoded
    end       when the one after its last is
    pts, pts_end  when the first of its pictures is shown, and until when the last one is
    is_key    its first picture needs no other
    samples   pictures
    sound     when the first sound after it is played; None: there is none in it
    """

    dts: float
    end: float
    pts: float
    pts_end: float
    is_key: bool
    samples: int
    sound: float | None


class Head(msgspec.Struct, frozen=True):
    """What a file says of itself, in its `uuid` box.

    shift_s  what the file's times are ahead of the source's: files have none below 0
    """

    source: str
    shift_s: float = 0.0


def boxes(data: bytes | memoryview, at: int = 0, end: int | None = None) -> Iterator[Mp4Box]:
    """The boxes of these bytes, one after the other. NotWhole where one does not end in them."""
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
    """The boxes at a path within a box."""
    for one in boxes(data, box.body, box.end):
        if one.kind == path[0]:
            if len(path) == 1:
                yield one
            else:
                yield from _inner(data, one, *path[1:])


def _first(data: bytes | memoryview, box: Mp4Box, *path: bytes) -> Mp4Box:
    found = next(_inner(data, box, *path), None)
    if found is None:
        raise NotWhole(f"there is no {b'/'.join(path).decode()} in it")
    return found


def read_init(data: bytes | memoryview) -> dict[int, Mp4Track]:
    """The tracks of an init part, by number. NotWhole."""
    try:
        moov = next(box for box in boxes(data) if box.kind == b"moov")
        tracks = {}
        for trak in _inner(data, moov, b"trak"):
            tkhd, mdhd = _first(data, trak, b"tkhd"), _first(data, trak, b"mdia", b"mdhd")
            hdlr = _first(data, trak, b"mdia", b"hdlr")
            number = _uint(data, tkhd.body + (20 if data[tkhd.body] else 12))
            ticks = _uint(data, mdhd.body + (20 if data[mdhd.body] else 12))
            kind = bytes(data[hdlr.body + 8 : hdlr.body + 12]).decode("latin-1")
            tracks[number] = Mp4Track(number, kind, ticks or 1)
        for trex in _inner(data, moov, b"mvex", b"trex"):
            number, _, duration, _, flags = struct.unpack_from(">5I", data, trex.body + 4)
            one = tracks[number]
            tracks[number] = Mp4Track(number, one.kind, one.ticks, duration, flags)
    except (StopIteration, KeyError, struct.error, IndexError) as error:
        raise NotWhole("its init part cannot be read") from error
    return tracks


def read_fragment(moof: bytes | memoryview, tracks: dict[int, Mp4Track]) -> Fragment | None:
    """What a `moof` box holds; None if it has no pictures. NotWhole."""
    try:
        return _fragment(moof, tracks)
    except (StopIteration, KeyError, struct.error) as error:
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
    pictures, sound = runs.get("vide"), runs.get("soun")
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
    """Samples of a track; seconds."""

    begin: float
    end: float
    shown: list[float]
    shown_end: float
    is_key: bool


def _samples(data: bytes | memoryview, traf: Mp4Box, tfhd: Mp4Box, track: Mp4Track) -> _SampleRun:
    said, at = _uint(data, tfhd.body), tfhd.body + 8
    duration, flags = track.duration, track.flags
    at += (8 if said & 0x1 else 0) + (4 if said & 0x2 else 0)
    if said & 0x8:
        duration, at = _uint(data, at), at + 4
    at += 4 if said & 0x10 else 0
    if said & 0x20:
        flags = _uint(data, at)
    tfdt = _first(data, traf, b"tfdt")
    (dts,) = struct.unpack_from(">Q" if data[tfdt.body] else ">I", data, tfdt.body + 4)
    shown: list[float] = []
    begin, shown_end, is_key = dts, 0, False
    for trun in _inner(data, traf, b"trun"):
        has, count, at = _uint(data, trun.body), _uint(data, trun.body + 4), trun.body + 8
        offsets = ">i" if data[trun.body] else ">I"
        at += 4 if has & 0x1 else 0
        first = flags
        if has & 0x4:
            first, at = _uint(data, at), at + 4
        if count > _MOST_SAMPLES:
            raise NotWhole(f"a fragment of {count} samples")
        for n in range(count):
            step, own, later = duration, flags if n else first, 0
            if has & 0x100:
                step, at = _uint(data, at), at + 4
            at += 4 if has & 0x200 else 0
            if has & 0x400:
                own, at = _uint(data, at), at + 4
            if has & 0x800:
                (later,) = struct.unpack_from(offsets, data, at)
                at += 4
            is_key = is_key or (not shown and not own & _NO_SYNC)
            shown.append((dts + later) / track.ticks)
            shown_end = max(shown_end, dts + later + step)
            dts += step
    ticks = track.ticks
    return _SampleRun(begin / ticks, dts / ticks, shown, shown_end / ticks, is_key)


def _uint(data: bytes | memoryview, at: int) -> int:
    (value,) = struct.unpack_from(">I", data, at)
    return int(value)


# -- The boxes that are ours to write.


def head_box(head: Head) -> bytes:
    """The `uuid` box of a file."""
    said = msgspec.json.encode(head)
    return struct.pack(">I4s", 24 + len(said), b"uuid") + _OURS + said


def writable(captured: float) -> float:
    """Return the time nearest to `captured`, UNIX seconds, that a file can hold: from 1970 to 2104,
    to a microsecond. Not a number stands for 1970.
    """
    if not captured > 0.0:
        return 0.0
    return round(min(captured, LATEST), 6)


def time_box(track: Mp4Track, captured: float, dts: float) -> bytes:
    """A `prft` box: the picture that is decoded at `dts` was taken at `captured`, UNIX seconds that
    are `writable`.
    """
    whole, part = divmod(captured, 1)
    ntp = ((int(whole) + _SINCE_1900) % _ERA_S << 32) | int(part * (1 << 32))
    media = round(dts * track.ticks)
    return struct.pack(">I4sIIQQ", 32, b"prft", 1 << 24 | _CAPTURE, track.number, ntp, media)


def _captured(data: bytes, body: int) -> float:
    """Read the time of a `prft` box: seconds below half an era are of the second one (RFC 4330)."""
    (ntp,) = struct.unpack_from(">Q", data, body + 8)
    seconds = (ntp >> 32) + (_ERA_S if ntp >> 63 == 0 else 0) - _SINCE_1900
    return writable(seconds + (ntp & 0xFFFFFFFF) / (1 << 32))


# -- A file, as far as it is whole.


@dataclass(frozen=True, slots=True)
class FileContents:
    """What a file of a recording holds, whole fragments only.

    init       its init part
    head       bytes before its first fragment
    nbytes     up to the end of its last whole fragment
    fragments  each with the UNIX seconds at which its first picture was taken
    """

    init: bytes
    said: Head
    head: int
    nbytes: int
    fragments: tuple[tuple[Fragment, float], ...]


def read_file(file: BinaryIO | io.FileIO) -> FileContents:
    """Read a file that may be cut off anywhere, with zeros at its end where a power cut kept the
    disk from writing; only heads of its fragments are read. NotWhole if no whole one is in it.
    """
    init = b""
    said: Head | None = None
    tracks: dict[int, Mp4Track] = {}
    found: list[tuple[Fragment, float]] = []
    at = head = whole = 0
    captured: float | None = None
    pending: Fragment | None = None
    size = file.seek(0, 2)
    while at + 8 <= size:
        file.seek(at)
        length, kind = struct.unpack(">I4s", file.read(8))
        if length < 8 or at + length > size:
            break
        if kind != b"mdat":
            if length > (_MOST_HEAD if not found else _LARGEST):
                break
            file.seek(at)
            data = file.read(length)
        if kind in (b"ftyp", b"moov"):
            init += data
            if kind == b"moov":
                tracks = read_init(init)
        elif kind == b"uuid" and data[8:24] == _OURS:
            said, head = _read_head(data[24:]), at + length
        elif kind == b"prft" and length >= 24:
            captured = _captured(data, 8)
        elif kind == b"moof":
            try:
                pending = read_fragment(data, tracks)
            except NotWhole:
                break
        elif kind == b"mdat":
            if pending is not None and captured is not None:
                found.append((pending, captured))
            pending, whole = None, at + length
        at += length
    if said is None or not found:
        raise NotWhole("there is no whole fragment in it")
    return FileContents(init, said, head, whole, tuple(found))


def _read_head(said: bytes) -> Head:
    try:
        return msgspec.json.decode(said, type=Head)
    except msgspec.MsgspecError as error:
        raise NotWhole("it does not say of which source it is") from error
