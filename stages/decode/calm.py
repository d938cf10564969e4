"""Decide whether packets are held undecoded: when a source is calm, and what wakes it.

All functions are pure, and depend on the packets and their own time stamps only. So a file that is
read again after a kill is decoded in the same places.

Invariants:

- A packet's size can wake a source, but a small size never keeps it asleep: packets of 100 bytes
  may carry a visible change. So the next key frame is compared before held packets are given up.
- Sizes are learned only from groups whose two key frames are alike, so an object that passes does
  not raise the limit. A limit that became too low, as at nightfall, rises again: each group that it
  wakes is judged by its key frames as well.
- Where sizes show nothing, only groups of BLIND_S or less are held, so that the next key frame
  shows a change soon.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final, Literal, NamedTuple

from framegate.stages.decode.usual_sizes import MOST_SPAN, CalmGroup, KindsAndSizes, UsualSizes

WakeReason = Literal["key_frame", "size", "asked", "event", "bound", "order", "end"]
"""Why held packets are decoded.

key_frame  the next key frame differs
size       packets are larger than usual
asked      a viewer or a program asked for the source
event      the camera reported an event; the functions here return `asked` for it
bound      the group became longer than may be held, or larger than the memory for it, or the
           connection is silent and may stall
order      time stamps or the structure of the group are not as expected
end        the source ended
"""

CALM_S: Final = 4.0  # seconds without a sign of change after which packets are held
HELD_BYTES: Final = 8 << 20
HELD_PACKETS: Final = 512
BLIND_S: Final = 1.2  # of the longest group that is held where sizes show nothing


class PacketFacts(NamedTuple):
    """A packet before it is decoded.

    seconds    its pts; None if it has none
    is_closed, kind  see packet_kinds.PacketKind
    is_sound   it is neither damaged nor does it change parameters of the decoder
    """

    seconds: float | None
    size: int
    is_closed: bool
    kind: int
    is_sound: bool = True


@dataclass(frozen=True, slots=True)
class PictureGroup:
    """A group of pictures: its key frame and the packets after it, up to now.

    begins_s, ends_s  lowest and highest pts
    sizes    kind and size of each packet but the key frame
    key_bytes, nbytes  of the key frame, and of all packets
    excesses   of the last packets over their usual sizes
    is_sound   closed, in order, and complete so far: it may be held
    is_large   packets are larger than usual
    """

    begins_s: float
    ends_s: float
    key_bytes: int
    nbytes: int
    sizes: KindsAndSizes = ()
    excesses: tuple[float, ...] = ()
    is_sound: bool = True
    is_large: bool = False


@dataclass(frozen=True, slots=True)
class Calm:
    """The state of a source after its last group: usual sizes, and how long it has been quiet.

    usual          sizes of the packets of calm groups
    quiet_since_s  begin of the first of the last groups without a sign of change; None: the last
                   group had one
    """

    usual: UsualSizes = field(default_factory=UsualSizes)
    quiet_since_s: float | None = None

    def is_calm(self, now_s: float) -> bool:
        """Return whether packets may be held from a key frame at `now_s` on."""
        return self.quiet_since_s is not None and now_s - self.quiet_since_s >= CALM_S

    def longest_s(self, hold_s: float) -> float:
        """Return the seconds of the longest group that is held; hold_s: the configured ones."""
        if self.usual.shows:
            return hold_s
        return min(hold_s, BLIND_S)

    def woken(self) -> Calm:
        """Return the state after a wake-up: the source must be calm again first."""
        return replace(self, quiet_since_s=None)


def group_at(key: PacketFacts) -> PictureGroup | None:
    """Return the group that begins with this key frame; None without a time stamp."""
    if key.seconds is None:
        return None
    is_sound = key.is_closed and key.is_sound
    return PictureGroup(key.seconds, key.seconds, key.size, key.size, is_sound=is_sound)


def with_packet(group: PictureGroup, packet: PacketFacts, usual: UsualSizes) -> PictureGroup:
    """Return the group after one more packet, which is not a key frame."""
    seconds = packet.seconds
    if seconds is None:
        return replace(group, is_sound=False)
    excess = usual.excess(packet.kind, len(group.sizes), packet.size)
    excesses = (*group.excesses, excess)[-MOST_SPAN:]
    return replace(
        group,
        ends_s=max(group.ends_s, seconds),
        nbytes=group.nbytes + packet.size,
        sizes=(*group.sizes, (packet.kind, packet.size)),
        excesses=excesses,
        is_sound=group.is_sound and packet.is_sound and seconds > group.begins_s,
        is_large=group.is_large or usual.is_large(excesses),
    )


def may_hold(group: PictureGroup, longest_s: float) -> bool:
    """Return whether a group may be held so far: sound, not too long and not too large."""
    is_short = group.ends_s - group.begins_s <= longest_s
    is_small = group.nbytes <= HELD_BYTES and len(group.sizes) < HELD_PACKETS
    return group.is_sound and is_short and is_small


def after_group(calm: Calm, group: PictureGroup, is_alike: bool, hold_s: float) -> Calm:
    """Return the state after a whole group.

    group     its packets
    is_alike  the key frame after it equals its own
    hold_s    the longest group that may be held
    """
    usual = calm.usual
    if is_alike:
        usual = usual.after(CalmGroup(group.key_bytes, group.sizes))
    # A kind that is not known yet cannot wake, so the source stays awake until it is.
    is_known = all(calm.usual.knows(kind) for kind, _ in group.sizes)
    is_short = group.ends_s - group.begins_s <= calm.longest_s(hold_s)
    is_quiet = is_alike and is_known and is_short and group.is_sound and not group.is_large
    since: float | None = None
    if is_quiet:
        since = group.begins_s
        if calm.quiet_since_s is not None:
            since = min(since, calm.quiet_since_s)  # a clock that goes back begins again
    return Calm(usual, since)


def reason_to_wake(
    calm: Calm, group: PictureGroup, packet: PacketFacts, hold_s: float, *, is_asked: bool
) -> WakeReason | None:
    """Return why the held packets and this one are decoded now; None: this one is held, too.

    group     the held group, with this packet
    is_asked  a viewer or a program wants the source's frames now
    """
    if is_asked:
        return "asked"
    if not group.is_sound:
        return "order"
    if group.is_large or not calm.usual.knows(packet.kind):
        return "size"
    if not may_hold(group, calm.longest_s(hold_s)):
        return "bound"
    return None


def reason_at_key(
    group: PictureGroup, key: PacketFacts, hold_s: float, *, is_asked: bool
) -> WakeReason | None:
    """Return why the held packets are decoded before this key frame; None: compare it first.

    group  the held group, without the key frame
    """
    if is_asked:
        return "asked"
    if not (key.is_closed and key.is_sound) or key.seconds is None or key.seconds <= group.ends_s:
        return "order"
    if key.seconds - group.begins_s > hold_s:
        return "bound"
    return None
