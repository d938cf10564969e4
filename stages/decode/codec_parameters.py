"""The parameters that a decoder needs before its first packet: where codecs keep them."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any, Final

import av
from av.packet import Packet
from av.stream import Stream

_PARAMETER_BYTES: Final = 4096  # at the head of a packet, which are searched for parameters
_AAC_LC: Final = 2
_AAC_RATES: Final = (
    *(96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350),
)
# Of Annex B streams: shift and mask of a NAL unit's type, and the types of parameter sets.
_PARAMETERS: Final[Mapping[str, tuple[int, int, frozenset[int]]]] = {
    "h264": (0, 0x1F, frozenset((7, 8))),
    "hevc": (1, 0x3F, frozenset((32, 33, 34))),
}


def extra_of(stream: Stream) -> bytes:
    """Return a track's parameters. Of AAC with ADTS, which has them in each packet, guess them."""
    context: Any = stream.codec_context
    if context.extradata:
        return bytes(context.extradata)
    if context.name != "aac" or context.sample_rate not in _AAC_RATES:
        return b""
    rate = _AAC_RATES.index(context.sample_rate)
    channels = context.layout.nb_channels
    return _aac_config(_AAC_LC, rate, 7 if channels == 8 else channels)


def key_frame_size(codec: str, extra: bytes, key: Packet[Any]) -> tuple[int, int]:
    """Return width and height of a key frame by decoding it: a camera's are unknown before, and
    change with the parameters. FFmpegError, ValueError.
    """
    decoder: Any = av.CodecContext.create(codec, "r")
    decoder.thread_count = 1
    if extra:
        decoder.extradata = extra
    frames = [*decoder.decode(Packet(memoryview(key))), *decoder.decode(None)]  # type: ignore[arg-type]
    if not frames:
        raise ValueError("a key frame that decodes to no picture")
    return frames[0].width, frames[0].height


def _aac_config(kind: int, rate: int, channels: int) -> bytes:
    """Return an AudioSpecificConfig (ISO/IEC 14496-3, 1.6.2.1). rate: index of a rate."""
    return struct.pack(">H", kind << 11 | rate << 7 | channels << 3)


def adts(data: bytes) -> tuple[bytes, int] | None:
    """Return the AudioSpecificConfig of an ADTS header (ISO/IEC 13818-7, 6.2) and the header's
    length; None if the data has none.
    """
    if len(data) < 7 or data[0] != 0xFF or data[1] & 0xF6 != 0xF0:
        return None
    kind = (data[2] >> 6) + 1
    rate = data[2] >> 2 & 0xF
    channels = (data[2] & 1) << 2 | data[3] >> 6
    return _aac_config(kind, rate, channels), 7 if data[1] & 1 else 9


def parameters(codec: str, packet: memoryview) -> bytes:
    """Return the parameter sets in a packet of an Annex B stream, as such a stream."""
    if codec not in _PARAMETERS:
        return b""
    shift, mask, kinds = _PARAMETERS[codec]
    data = bytes(packet[:_PARAMETER_BYTES])
    if not data.startswith((b"\0\0\1", b"\0\0\0\1")):
        return b""
    sets = b""
    for unit in data.split(b"\0\0\1")[1:]:
        if unit and unit[0] >> shift & mask in kinds:
            sets += b"\0\0\0\1" + unit.rstrip(b"\0")
    return sets
