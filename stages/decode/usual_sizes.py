"""The usual sizes of a calm source's packets, and what is larger than usual.

The first packets after a key frame code the sensor's noise again and are several times as large as
later ones. So each place in a group of pictures has a usual size of its own, and sizes are compared
as logarithms of their ratio to it. A small or distant object makes many packets a little larger and
none of them much. So means over some packets are compared as well as single packets.

Sizes show nothing where the encoder keeps them constant and lowers its quality instead, or where
noise makes them vary by more than an object adds. `shows` states whether they do.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

SPANS: Final = (1, 3, 8)  # packets over which an excess is averaged
MOST_SPAN: Final = SPANS[-1]

_GROUPS: Final = 12  # the last calm groups, from which sizes are learned
_LEAST_GROUPS: Final = 3
_LEAST_PACKETS: Final = 8
_LEAST_AT_PLACE: Final = 3
_QUANTILE: Final = 0.75  # of groups: in the others something may have come and gone
_MARGIN: Final = 0.3  # of a logarithm, for one packet
_SLACK: Final = 40  # bytes: headers alone differ by so much
# An object of this part of the picture costs about as large a part of the key frame's bytes. With
# constant quality and noise the limit was 0.015 to 0.03 of a key frame above the usual size, with a
# constant bit rate 0.2 to 0.3, and persons of a third of the picture's height went unseen there.
_MOST_HIDDEN: Final = 0.05

KindsAndSizes = tuple[tuple[int, int], ...]


class CalmGroup(NamedTuple):
    """The bytes of a key frame, and the kind and size of each packet after it, in order."""

    key_bytes: int
    sizes: KindsAndSizes


@dataclass(frozen=True, slots=True)
class UsualSizes:
    """The sizes of packets in the last calm groups of pictures.

    groups    the last of them
    at_place  logarithm of the usual size, by kind and place in the group, from 0
    of_kind   the same by kind, for places that are not known
    limits    mean excess from which packets are large, for each of SPANS; empty: not enough groups
    hidden    part of a key frame's bytes by which a packet grows before it is large
    """

    groups: tuple[CalmGroup, ...] = ()
    at_place: Mapping[tuple[int, int], float] = field(default_factory=dict)
    of_kind: Mapping[int, float] = field(default_factory=dict)
    limits: tuple[float, ...] = ()
    hidden: float = math.inf

    @property
    def shows(self) -> bool:
        """Return whether an object of a few percent of the picture makes packets large."""
        return self.hidden <= _MOST_HIDDEN

    def knows(self, kind: int) -> bool:
        """Return whether enough packets of this kind have been seen."""
        return bool(self.limits) and kind in self.of_kind

    def excess(self, kind: int, place: int, size: int) -> float:
        """Return the logarithm of a size relative to the usual one; 0 for a kind not known."""
        usual = self.at_place.get((kind, place))
        if usual is None:
            usual = self.of_kind.get(kind)
        if usual is None:
            return 0.0
        return _log(size) - usual

    def is_large(self, last: Sequence[float]) -> bool:
        """Return whether the newest packets are larger than usual.

        last  excesses of the group's last packets, at most MOST_SPAN, the newest last
        """
        return any(
            sum(last[-span:]) / span > limit
            for span, limit in zip(SPANS, self.limits, strict=False)  # no limits: none is large
        )

    def after(self, group: CalmGroup) -> UsualSizes:
        """Return the sizes with one more calm group."""
        groups = (*self.groups, group)[-_GROUPS:]
        by_place: dict[tuple[int, int], list[float]] = {}
        by_kind: dict[int, list[float]] = {}
        for each in groups:
            for place, (kind, size) in enumerate(each.sizes):
                by_place.setdefault((kind, place), []).append(_log(size))
                by_kind.setdefault(kind, []).append(_log(size))
        at_place = {
            place: statistics.median(logs)
            for place, logs in by_place.items()
            if len(logs) >= _LEAST_AT_PLACE
        }
        of_kind = {
            kind: statistics.median(logs)
            for kind, logs in by_kind.items()
            if len(logs) >= _LEAST_PACKETS
        }
        usual = UsualSizes(groups, at_place, of_kind)
        if len(groups) < _LEAST_GROUPS or not of_kind:
            return usual
        limits = tuple(usual._limit(span) for span in SPANS)
        hidden = usual._hidden(limits[0])
        return UsualSizes(groups, at_place, of_kind, limits, hidden)

    def _limit(self, span: int) -> float:
        """Return the mean excess over `span` packets from which they are large."""
        greatest = sorted(
            max(_means(list(self._excesses(group)), span), default=0.0) for group in self.groups
        )
        return greatest[int(_QUANTILE * (len(greatest) - 1))] + _MARGIN / math.sqrt(span)

    def _excesses(self, group: CalmGroup) -> Iterator[float]:
        for place, (kind, size) in enumerate(group.sizes):
            yield self.excess(kind, place, size)

    def _hidden(self, limit: float) -> float:
        """Return the median growth, over all places, of a packet that is just not large."""
        usual = self.at_place or self.of_kind
        growth = [math.exp(log) * (math.exp(limit) - 1) for log in usual.values()]
        key_bytes = statistics.median(group.key_bytes for group in self.groups)
        return statistics.median(growth) / max(1.0, key_bytes)


def _log(size: int) -> float:
    return math.log(size + _SLACK)


def _means(excesses: Sequence[float], span: int) -> list[float]:
    """Return the sum over the last `span` packets at each packet, divided by `span`."""
    return [sum(excesses[max(0, end - span) : end]) / span for end in range(1, len(excesses) + 1)]
