"""Decode the packets of one source, and hold them undecoded while it is calm.

`calm` decides; this module holds the packets and drives the decoder. Invariants:

- Each packet is decoded once, or its frame is in `DuePicture.undecoded` of the next key frame,
  after that key frame was decoded and found alike. A key frame may be decoded again to wake the
  source; its picture is then returned once.
- Pictures and undecoded frames come in the order of a decoder that decodes all packets.
- While packets are held, the decoder has decoded nothing after the key frame of their group.

So a source is in one of three states:

awake   `_held` is None: each packet is decoded. At a key frame, it ends once the source was calm
warm    packets are held, and the decoder returned their key frame at once: on waking, the packets
        after it can follow
cold    packets are held, and the decoder was emptied to get their key frame, as it returns
        pictures late: on waking, the key frame is decoded again first (`_again` is its pts until
        its picture comes back, which is not returned a second time)

`_ended` and `_ahead_at_key` belong to a decoder that returns pictures late while awake: the group
before a key frame is judged when that key frame comes out.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Final, Literal, NamedTuple, TypeAlias

import av
from av.packet import Packet
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from framegate.models.gate.settings import settings_of
from framegate.models.picture import Picture as Planes
from framegate.pipeline.contracts.source import GROUP_BYTES, Frames, Request, UndecodedFrame
from framegate.pipeline.promise import audit_coin
from framegate.stages.decode import calm
from framegate.stages.decode.calm import Calm, PacketFacts, PictureGroup, WakeReason
from framegate.stages.decode.frame import DecodedFrame, Orientations
from framegate.stages.decode.held_group import packed
from framegate.stages.decode.key_frames import KeyFrames
from framegate.stages.decode.open_video import Opened, reported_captured, seconds_of
from framegate.stages.decode.options import DecodeOptions
from framegate.stages.decode.packet_kinds import PacketKinds, kinds_in

# For which `ask` keeps a source awake. It is called about once a second while a reader asks.
ASKED_S: Final = 1.5
_COINS: Final = 1 << 63
# Of the time after which a source stalls. A silent RTSP connection is seen at half of it at latest.
_SILENCE: Final = 0.4
# Of the packets of a group that is kept for audits. The rest of GROUP_BYTES is for their times.
_KEPT_BYTES: Final = GROUP_BYTES - (64 << 10)

VideoPacket: TypeAlias = "Packet[VideoStream]"


class DuePicture(NamedTuple):
    """A decoded picture, the arrival of the packet that completed it, and the frames before it that
    were not decoded.
    """

    frame: av.VideoFrame
    arrived: float
    undecoded: tuple[UndecodedFrame, ...] = ()


class _Held(NamedTuple):
    packet: VideoPacket
    arrived: float


def lazy_decoder(
    request: Request,
    options: DecodeOptions,
    opened: Opened,
    decode: Callable[[VideoPacket], list[av.VideoFrame]],
) -> LazyDecoder | None:
    """Return the decoder of a source that is decoded lazily; None if each frame is decoded.

    decode  see LazyDecoder

    Groups of pictures are known of H.264 and HEVC. A source without time stamps, one over HLS,
    whose packets arrive in segments, and one with a choice of frames are always decoded.
    """
    is_wanted = request.decode == "lazy" and request.frames == Frames() and opened.has_times
    if not is_wanted or opened.container.format.name == "hls":
        return None
    kinds = kinds_in(opened.stream.codec_context)
    if kinds is None:
        return None
    keys = KeyFrames(request.unwatched, settings_of(request.least, request.most))
    return LazyDecoder(
        opened,
        kinds,
        decode,
        keys,
        options.hold_s,
        request.coin,
        options.audited,
        request.stall_s,
        keeps_packets=request.keeps_packets,
    )


class LazyDecoder:
    """Decodes one source, lazily. One thread.

    n_held  packets that were held so far
    counts  lazy:woken:REASON: how often held packets were decoded; lazy:audited: groups that were
            decoded for the audit; lazy:missed: those in which a frame differed from the first,
            although nothing else would have shown it
    """

    def __init__(
        self,
        opened: Opened,
        kinds: PacketKinds,
        decode: Callable[[VideoPacket], list[av.VideoFrame]],
        keys: KeyFrames,
        hold_s: float,
        coin: bytes,
        audited: float,
        stall_s: float,
        *,
        keeps_packets: bool,
    ) -> None:
        """Begin awake.

        decode   decodes a packet, an empty one to get the last pictures; [] if it is damaged
        hold_s   the longest group of pictures that is held
        coin     key of the coin that draws the groups to audit
        audited  their share, 0..1
        stall_s, keeps_packets  see Request
        """
        self._opened = opened
        self._kinds = kinds
        self._decode = decode
        self._converter = VideoReformatter()
        self._orientations = Orientations()
        self._hold_s = hold_s
        self._coin = coin
        self._audited = audited
        self._silence_s = _SILENCE * stall_s
        self._keeps_packets = keeps_packets
        self._keys = keys
        self._calm = Calm()
        self._group: PictureGroup | None = None  # of the last packet; None: it may not be held
        self._ended: PictureGroup | None = (
            None  # the group before a key frame that is not returned yet
        )
        self._held: list[_Held] | None = None  # a key frame and the held packets; None: awake
        self._is_warm = False
        self._again: int | None = None  # pts of a key frame that was returned and decoded again
        self._last: av.VideoFrame | None = None  # decoded since the last key frame
        self._is_audit = False
        self._is_missed = False
        self._asked_until = 0.0
        self._asked_for: WakeReason = "asked"
        self._ahead = 0  # decoded packets without a picture
        self._ahead_at_key = 0
        self.n_held = 0
        self._n_undecoded = 0  # held packets that were neither woken nor given up
        self._woken: set[int | None] = set()  # pts of woken packets whose pictures are not returned
        self.counts: dict[str, int] = {}

    @property
    def n_pending(self) -> int:
        """Return the number of held packets whose frames are not returned yet. Any thread."""
        return self._n_undecoded + len(self._woken)

    def ask(self, why: Literal["asked", "event"] = "asked") -> None:
        """Decode all frames for the next ASKED_S, and those that are held."""
        self._asked_until = time.monotonic() + ASKED_S
        self._asked_for = why

    def pictures(self, packet: VideoPacket, arrived: float) -> Iterator[DuePicture]:
        """Yield the pictures that are due after this packet. Exhaust it before the next call.

        An empty packet ends the source.
        """
        if not packet.size:
            yield from self._wake("end")
            yield from self._decoded(packet, arrived)
            return
        facts = self._facts(packet)
        if packet.is_keyframe:
            yield from self._key_frame(packet, facts, arrived)
        else:
            yield from self._other(packet, facts, arrived)

    def overdue(self, now: float) -> Iterator[DuePicture]:
        """Yield the held pictures if no packet came for too long, or if they were asked for.

        A connection that stalls is closed, and its held packets are lost. So they are decoded
        before that.
        """
        if self._held is None:
            return
        is_long = now - self._held[0].arrived > self._hold_s
        is_silent = now - self._held[-1].arrived > self._silence_s
        if self._is_asked():
            yield from self._wake("asked")
        elif is_long or is_silent:
            yield from self._wake("bound")

    def rest(self) -> Iterator[DuePicture]:
        """Yield the held pictures: the connection was lost."""
        yield from self._wake("end")

    def _facts(self, packet: VideoPacket) -> PacketFacts:
        kind = self._kinds.of(packet)
        is_sound = not packet.is_corrupt and not packet.has_sidedata("new_extradata")
        return PacketFacts(seconds_of(packet), packet.size, kind.is_closed, kind.kind, is_sound)

    def _is_asked(self) -> bool:
        return self._asked_until > 0 and time.monotonic() < self._asked_until

    def _other(
        self, packet: VideoPacket, facts: PacketFacts, arrived: float
    ) -> Iterator[DuePicture]:
        group = self._group
        if group is not None:
            group = self._group = calm.with_packet(group, facts, self._calm.usual)
        if self._held is None or group is None:
            if group is not None and not calm.may_hold(group, self._hold_s):
                # Its facts are of no use any more, and would grow until the next key frame.
                self._group = None
            yield from self._decoded(packet, arrived)
            return
        asked = self._is_asked()
        reason = calm.reason_to_wake(self._calm, group, facts, self._hold_s, is_asked=asked)
        self._held.append(_Held(packet, arrived))
        self.n_held += 1
        self._n_undecoded += 1
        if reason is None and self._keeps_packets and group.nbytes > _KEPT_BYTES:
            reason = "bound"
        if reason is not None:
            yield from self._wake(reason)

    def _key_frame(
        self, packet: VideoPacket, facts: PacketFacts, arrived: float
    ) -> Iterator[DuePicture]:
        """Judge the group that ends, and decide about the one that begins.

        The order matters. First the held packets: they are decoded before anything after them.
        Then a decoder that returns pictures late: it is emptied, so that the group can be judged
        and the next one held. Last the usual case while awake: the group is judged when its next
        key frame comes out, which is now if the decoder returns pictures at once.
        """
        group = self._group
        if self._held is not None and group is not None:
            asked = self._is_asked()
            reason = calm.reason_at_key(group, facts, self._hold_s, is_asked=asked)
            if reason is None:
                yield from self._compared(packet, facts, arrived, group)
                return
            yield from self._wake(reason)
        elif group is not None and self._ahead and self._may_hold(facts):
            # A decoder that returns pictures late must be empty before it skips packets.
            yield from self._returned(self._drained(), arrived)
            yield from self._compared(packet, facts, arrived, group)
            return
        self._end_group()
        self._group = calm.group_at(facts)
        yield from self._decoded(packet, arrived)
        if self._ahead == 0 and self._may_hold(facts) and not self._is_drawn(packet):
            self._is_warm = True
            self._held = [_Held(packet, arrived)]

    def _end_group(self) -> None:
        """Keep the facts of the group that ends, until its next key frame is returned."""
        group, self._group = self._group, None
        if group is None or self._ahead != self._ahead_at_key:
            # Some packet had no picture of its own, so undecoded frames could not be counted.
            self._calm = self._calm.woken()
            group = None
        self._ended = group
        self._ahead_at_key = self._ahead

    def _may_hold(self, key: PacketFacts) -> bool:
        if key.seconds is None or not key.is_closed or self._is_asked():
            return False
        return self._calm.is_calm(key.seconds)

    def _compared(
        self, packet: VideoPacket, key: PacketFacts, arrived: float, group: PictureGroup
    ) -> Iterator[DuePicture]:
        """Decode a key frame alone. If it is alike, give up the held packets, else decode them.

        group  the group that ends, held or decoded
        """
        frames = self._decode(packet)
        is_warm = bool(frames)
        if not is_warm:
            frames = self._drained()
        is_whole = len(frames) == 1 and self._ahead == 0
        was_held = self._held is not None
        is_alike = is_whole and self._is_alike(frames[0], group, was_held=was_held)
        self._calm = calm.after_group(self._calm, group, is_alike, self._hold_s)
        self._ended = None
        held = self._held
        if held is not None and not is_alike:
            self._is_warm = False
            yield from self._wake("key_frame")
            self._group = calm.group_at(key)
            yield from self._decoded(packet, arrived)
            return
        self._group = calm.group_at(key)
        self._ahead = self._ahead_at_key = 0
        undecoded: tuple[UndecodedFrame, ...] = ()
        if held is not None:
            undecoded = self._undecoded(held, frames[0])
        for frame in frames:
            yield DuePicture(frame, arrived, undecoded)
            undecoded = ()
        self._n_undecoded = 0  # only now, because a stop waits for these frames
        self._woken.clear()
        self._held = None
        if self._may_hold(key) and not self._is_drawn(packet):
            self._is_warm = is_warm
            self._held = [_Held(packet, arrived)]
        elif not is_warm:
            yield from self._decoded_again(packet, arrived)

    def _is_drawn(self, key: VideoPacket) -> bool:
        """Return whether the coin draws the group that begins with this key frame for the audit.

        Then it is decoded although the source is calm, which shows how often a held group hides a
        change that comes and goes. The coin is thrown before any packet of the group is known.
        """
        index = (key.pts or 0) % _COINS
        self._is_audit = audit_coin.drawn(self._coin, index, self._audited)
        self._is_missed = False
        return self._is_audit

    def _is_alike(
        self, key_frame: av.VideoFrame, group: PictureGroup, *, was_held: bool = False
    ) -> bool:
        """Return whether a key frame equals the one before; `group` is between them.

        A difference teaches the noise of key frames only if all packets between were decoded, and
        the last picture shows none: small packets may carry a visible change.
        """
        last, self._last = self._last, None

        def is_noise() -> bool:
            if was_held or group.is_large or last is None:
                return False
            return not self._keys.differs(self._planes_of(last))

        is_alike = self._keys.is_alike(self._planes_of(key_frame), is_noise)
        if self._is_audit:
            self._is_audit = False
            self._count("lazy:audited")
            if self._is_missed and is_alike and not group.is_large:
                self._count("lazy:missed")
        return is_alike

    def _wake(self, reason: WakeReason) -> Iterator[DuePicture]:
        """Decode the held packets, in their order.

        A request is no sign of a change, so after it packets are held from the next key frame on.
        """
        held, self._held = self._held, None
        if held is None:
            return
        if reason == "asked":
            reason = self._asked_for
        self._count(f"lazy:woken:{reason}")
        if reason != "asked":
            self._calm = self._calm.woken()
        key, *others = held
        self._woken.update(each.packet.pts for each in others)
        self._n_undecoded = 0
        if not self._is_warm:
            yield from self._decoded_again(key.packet, key.arrived)
        for packet, arrived in others:
            yield from self._decoded(packet, arrived)

    def _decoded_again(self, key: VideoPacket, arrived: float) -> Iterator[DuePicture]:
        """Give the decoder a key frame again whose picture was returned before."""
        self._opened.restart()
        self._ahead = 0
        self._ahead_at_key = 0
        self._again = key.pts
        yield from self._decoded(key, arrived)

    def _decoded(self, packet: VideoPacket, arrived: float) -> Iterator[DuePicture]:
        self._ahead += packet.size > 0
        yield from self._returned(self._decode(packet), arrived)

    def _drained(self) -> list[av.VideoFrame]:
        """Return the pictures that the decoder holds back, and let it begin again."""
        frames = self._decode(self._opened.flush())
        self._opened.restart()
        return frames

    def _returned(self, frames: list[av.VideoFrame], arrived: float) -> Iterator[DuePicture]:
        for frame in frames:
            self._ahead -= 1
            if self._again is not None and frame.pts == self._again:
                self._again = None
                continue
            if frame.key_frame:
                self._see_key_frame(frame)
            else:
                self._last = frame
                if self._is_audit and not self._is_missed:
                    self._is_missed = self._keys.differs(self._planes_of(frame))
            yield DuePicture(frame, arrived)
            self._woken.discard(frame.pts)
            if frame.key_frame:
                self._woken.clear()  # of damaged packets before it

    def _see_key_frame(self, frame: av.VideoFrame) -> None:
        """Judge the group before a key frame, now that this one is decoded."""
        group, self._ended = self._ended, None
        if group is None:
            self._is_audit = False
            self._last = None
            self._keys.is_alike(self._planes_of(frame), lambda: False)
            self._calm = self._calm.woken()
            return
        is_alike = self._is_alike(frame, group)
        self._calm = calm.after_group(self._calm, group, is_alike, self._hold_s)

    def _undecoded(self, held: list[_Held], key_frame: av.VideoFrame) -> tuple[UndecodedFrame, ...]:
        """Return the frames of held packets in the order of their time stamps.

        held       begins with a key frame, which was decoded
        key_frame  a picture with the same orientation
        """
        packets = b""
        if self._keeps_packets:
            orientation = self._orientations.of(key_frame)
            packets = packed(self._opened.stream, [each.packet for each in held], orientation)
        frames = [
            UndecodedFrame(seconds_of(packet), arrived, reported_captured(packet), packets)
            for packet, arrived in held[1:]
        ]
        return tuple(sorted(frames, key=lambda frame: frame.pts or 0.0))

    def _planes_of(self, frame: av.VideoFrame) -> Planes:
        # Upright, because the polygons of unwatched parts are.
        decoded = DecodedFrame(frame, self._converter, self._orientations.of(frame))
        y, u, v = decoded.upright()
        return Planes(y, u, v, full_range=decoded.form.full_range)

    def _count(self, name: str) -> None:
        self.counts[name] = self.counts.get(name, 0) + 1
