"""A group of pictures that was not decoded, as bytes: its key frame and the packets after it.

The promise draws frames for audits after their results are fixed. So the packets of undecoded
frames are kept, and a drawn frame is decoded from them.
"""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction

import av
import av.error
import msgspec
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from framegate.pipeline.contracts.errors import FrameLost
from framegate.pipeline.contracts.source import Form
from framegate.stages.decode.frame import DecodedFrame, Orientation


class _HeldPacket(msgspec.Struct, frozen=True, array_like=True):
    pts: int | None
    dts: int | None
    data: bytes


class _HeldGroup(msgspec.Struct, frozen=True, array_like=True):
    """A group and what a decoder needs of its stream.

    time_base  of the packets: numerator, denominator
    turned     swap, mirror_x and mirror_y of the pictures' orientation
    """

    codec: str
    extradata: bytes
    time_base: tuple[int, int]
    turned: tuple[bool, bool, bool]
    packets: tuple[_HeldPacket, ...]


def packed(
    stream: VideoStream, packets: Iterable[Packet[VideoStream]], orientation: Orientation
) -> bytes:
    """Return a group, from its key frame on, for `pixels_at`."""
    context = stream.codec_context
    base = stream.time_base or Fraction(1)
    held = tuple(_HeldPacket(each.pts, each.dts, bytes(each)) for each in packets)
    group = _HeldGroup(
        context.codec.canonical_name,
        bytes(context.extradata or b""),
        (base.numerator, base.denominator),
        (orientation.swap, orientation.mirror_x, orientation.mirror_y),
        held,
    )
    return msgspec.msgpack.encode(group)


def pixels_at(packets: bytes, pts: float | None, form: Form) -> bytearray:
    """Decode a group up to the frame at `pts` (seconds); return its pixels as Frame.write does.

    Raises FrameLost, which is final, if there is no such frame of that form.
    """
    group = msgspec.msgpack.decode(packets, type=_HeldGroup)
    context = av.CodecContext.create(group.codec, "r")
    assert isinstance(context, VideoCodecContext)
    if group.extradata:
        context.extradata = group.extradata
    base = Fraction(*group.time_base)
    try:
        for frame in _frames(context, group, base):
            if frame.pts is not None and pts == frame.pts * base.numerator / base.denominator:
                return _written(frame, Orientation(*group.turned), form)
    except av.error.FFmpegError as error:
        raise FrameLost(f"the frame at {pts} s cannot be decoded: {error}", final=True) from error
    raise FrameLost(f"the group has no frame at {pts} s", final=True)


def _frames(
    context: VideoCodecContext, group: _HeldGroup, base: Fraction
) -> Iterable[av.VideoFrame]:
    for held in group.packets:
        packet = Packet(held.data)
        packet.pts = held.pts
        packet.dts = held.dts
        packet.time_base = base
        yield from context.decode(packet)
    yield from context.decode(None)


def _written(frame: av.VideoFrame, orientation: Orientation, form: Form) -> bytearray:
    decoded = DecodedFrame(frame, VideoReformatter(), orientation)
    size = decoded.form.width, decoded.form.height
    if size != (form.width, form.height):
        what = f"{size[0]}x{size[1]}, not {form.width}x{form.height}"
        raise FrameLost(f"the frame at {decoded.pts} s is {what}", final=True)
    decoded.form = form  # matrix and range may be stated by the container only
    pixels = bytearray(decoded.nbytes)
    decoded.write(memoryview(pixels))
    return pixels
