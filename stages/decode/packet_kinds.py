"""The kinds of pictures in packets of H.264 and HEVC, from the headers of their NAL units.

Nothing is decoded. A *closed group* begins with a picture from which decoding can begin, and no
later picture refers to one before it (H.264 7.4.1.2.4 and HEVC 7.4.2.2: IDR pictures).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

from av.packet import Packet
from av.video.codeccontext import VideoCodecContext

_START: Final = b"\0\0\1"
_HEAD_BYTES: Final = 2048  # the first slice of a packet usually begins within these
_SLICE_BITS: Final = 64
_SLICE_BYTES: Final = _SLICE_BITS // 8
_H264_IDR: Final = 5
_HEVC_IDR: Final = (19, 20)
_HEVC_SLICES: Final = 32  # NAL unit types below this are slices
_SLICE_TYPES: Final = 5  # a slice type of 5 to 9 also states that all slices have it


class PacketKind(NamedTuple):
    """The kind of a packet's picture.

    is_closed  it begins a closed group of pictures
    kind       pictures of one kind have similar sizes; -1: unknown
    """

    is_closed: bool
    kind: int


UNKNOWN: Final = PacketKind(is_closed=False, kind=-1)


class PacketKinds:
    """Reads the kinds of a stream's packets."""

    def __init__(self, read: Callable[[bytes], PacketKind | None], length_bytes: int) -> None:
        """length_bytes: size of the length before each NAL unit; 0: start codes separate them."""
        self._read = read
        self._length_bytes = length_bytes

    def of(self, packet: Packet[Any]) -> PacketKind:
        """Return the kind of a packet by its first slice; UNKNOWN without one."""
        view = memoryview(packet)
        for unit in self._units(view):
            kind = self._read(unit)
            if kind is not None:
                return kind
        return UNKNOWN

    def _units(self, view: memoryview) -> Iterator[bytes]:
        """Yield the first bytes of each NAL unit."""
        if self._length_bytes:
            return _by_length(view, self._length_bytes)
        return _by_start_code(view)


def kinds_in(context: VideoCodecContext) -> PacketKinds | None:
    """Return a reader for a stream; None for a codec whose groups of pictures are not known."""
    read = _READERS.get(context.codec.canonical_name)
    if read is None:
        return None
    extradata = context.extradata or b""
    if extradata[:1] != b"\1":  # neither an avcC nor an hvcC record
        return PacketKinds(read, 0)
    at = 4
    if read is _hevc:
        at = 21
    if len(extradata) <= at:
        return None
    return PacketKinds(read, (extradata[at] & 3) + 1)


def _by_length(view: memoryview, length_bytes: int) -> Iterator[bytes]:
    at = 0
    while at + length_bytes < len(view):
        begin = at + length_bytes
        at = begin + int.from_bytes(view[at:begin], "big")
        yield bytes(view[begin : min(at, begin + _SLICE_BYTES + 1)])


def _by_start_code(view: memoryview) -> Iterator[bytes]:
    data = bytes(view[:_HEAD_BYTES])
    at = data.find(_START)
    while at >= 0:
        begin = at + len(_START)
        yield data[begin : begin + _SLICE_BYTES + 1]
        at = data.find(_START, begin)
        if at < 0 and len(data) < len(view):
            data = bytes(view)
            at = data.find(_START, begin)


def _h264(unit: bytes) -> PacketKind | None:
    """Return the kind of an H.264 NAL unit, None if it is no slice."""
    if len(unit) < 2:
        return None
    unit_type = unit[0] & 31
    if unit_type not in (1, _H264_IDR):
        return None
    bits = int.from_bytes(unit[1 : 1 + _SLICE_BYTES].ljust(_SLICE_BYTES, b"\0"), "big")
    _, at = _exp_golomb(bits, 0)  # first_mb_in_slice
    slice_type, _ = _exp_golomb(bits, at)
    is_reference = unit[0] >> 5 & 3 != 0
    return PacketKind(unit_type == _H264_IDR, 2 * (slice_type % _SLICE_TYPES) + is_reference)


def _hevc(unit: bytes) -> PacketKind | None:
    """Return the kind of an HEVC NAL unit, None if it is no slice.

    The type of a unit states whether other pictures refer to it.
    """
    if not unit:
        return None
    unit_type = unit[0] >> 1 & 63
    if unit_type >= _HEVC_SLICES:
        return None
    return PacketKind(unit_type in _HEVC_IDR, unit_type)


def _exp_golomb(bits: int, at: int) -> tuple[int, int]:
    """Return the unsigned Exp-Golomb code (H.264 9.1) at bit `at` of 64, and the bit after it."""
    rest = bits & ((1 << (_SLICE_BITS - at)) - 1)
    zeros = _SLICE_BITS - at - rest.bit_length()
    end = at + 2 * zeros + 1
    if end > _SLICE_BITS:
        return 0, at
    return (rest >> (_SLICE_BITS - end)) - 1, end


_READERS: Final[dict[str, Callable[[bytes], PacketKind | None]]] = {"h264": _h264, "hevc": _hevc}
