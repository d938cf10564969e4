"""Counters of results, looks, sound and stages, and histograms of latencies.

Buckets grow by a quarter. A percentile is read from them as Prometheus reads one, as if a bucket's
frames lay evenly in it: it is right to within that quarter.
"""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import get_args

import msgspec

from framegate.pipeline.contracts.keys import SOUND
from framegate.pipeline.contracts.queries import AskCounts, CacheCounts, FootageCounts
from framegate.pipeline.contracts.results import (
    DegradedReason,
    Escalation,
    Looked,
    Reason,
    Settled,
    SoundOutcome,
)

PREFIX = "latency:"
BOUNDS_S = tuple(0.0005 * 1.25**i for i in range(60))  # of latencies, in the store's counters
SHORT_BOUNDS_S = tuple(0.0005 * 1.25**i for i in range(-12, 60))  # also of a stage's work
EVERY_BOUND = 3  # Prometheus gets every third bound: a factor of about 2 each
_SHORT_BOUNDS_US = tuple(bound * 1e6 for bound in SHORT_BOUNDS_S)
_NAMES = tuple(f"{PREFIX}{index}" for index in range(len(BOUNDS_S) + 1))


def upper_bounds(counts: Sequence[int], bounds: Sequence[float]) -> list[tuple[str, float]]:
    """Return a histogram as Prometheus takes it: (bound in seconds as text, how many up to it).

    counts: how many were above the bound before and not above this one, the last ones above all.
    """
    below, found = 0, []
    for index, (bound, n) in enumerate(zip(bounds, counts, strict=False)):
        below += n
        if index % EVERY_BOUND == EVERY_BOUND - 1:
            found.append((f"{bound:.6g}", float(below)))
    return [*found, ("+Inf", float(sum(counts)))]


def latency_bounds(counters: Mapping[str, int]) -> list[tuple[str, float]]:
    """Return the latencies that a source's counters hold, as Prometheus takes them."""
    return upper_bounds([counters.get(name, 0) for name in _NAMES], BOUNDS_S)


def bucket(seconds: float) -> str:
    """Counter of the bucket that holds this latency."""
    return _NAMES[bisect.bisect_left(BOUNDS_S, seconds)]


def percentile(counters: Mapping[str, int], share: float) -> float | None:
    """The latency in seconds below which `share` (0..1) of the frames stayed; None without any."""
    filled = sorted(
        (int(name.removeprefix(PREFIX)), n) for name, n in counters.items() if n and PREFIX in name
    )
    wanted = share * sum(n for _, n in filled)
    for index, n in filled:
        if wanted <= n:
            low = BOUNDS_S[index - 1] if index else 0.0
            high = BOUNDS_S[min(index, len(BOUNDS_S) - 1)]  # of the last bucket nobody knows more
            return low + (high - low) * wanted / n
        wanted -= n
    return None


# -- How frames were looked at and why, and what came: counted in the hop that publishes them, read
# by all who tell. The counters of a result are `looked:LOOKED:REASON`; where the heavy model was to
# be asked, `escalated:done` or `escalated:WHY NOT`; and for each track whose label it settles
# `objects:LABEL`, as for those that the end of an epoch settles. The first two are of closed lists.
# Labels are a model's: hop.lua counts those beyond a number of them as `objects:other`.


LOOKS_PREFIX = "looked:"
ESCALATED = "escalated:"
OBJECTS = "objects:"
OTHER = "other"
MOST_LABELS = 100  # of a source, as hop.lua has it
LABEL_LENGTH = 64


class _LookedAt(msgspec.Struct, frozen=True):
    looked: Looked
    reason: Reason
    escalation: Escalation = "none"
    degraded: DegradedReason | None = None
    settled: tuple[Settled, ...] = ()


class _LastWords(msgspec.Struct, frozen=True):
    settled: tuple[Settled, ...] = ()


_decode = msgspec.msgpack.Decoder(_LookedAt).decode
_decode_last = msgspec.msgpack.Decoder(_LastWords).decode


def result_counters(result: bytes) -> tuple[str, ...]:
    """The counters of a published result (msgpack), one as often as it is to grow; none for what a
    user's stage publishes.
    """
    try:
        look = _decode(result)
    except msgspec.ValidationError:
        return ()
    names = [f"{LOOKS_PREFIX}{look.looked}:{look.reason}"]
    if look.escalation != "none":
        names.append(f"{ESCALATED}{look.degraded or look.escalation}")
    return (*names, *_settled(look.settled))


def last_counters(said: bytes) -> tuple[str, ...]:
    """The counters of what the stage that publishes said at an end (msgpack), as for a result."""
    try:
        return _settled(_decode_last(said).settled)
    except msgspec.ValidationError:
        return ()


def _settled(tracks: Iterable[Settled]) -> tuple[str, ...]:
    return tuple(f"{OBJECTS}{one.label[:LABEL_LENGTH]}" for one in tracks)


def objects_of(counters: Mapping[str, int]) -> dict[str, int]:
    """Tracks whose label is settled, by it."""
    return {
        name.removeprefix(OBJECTS): n for name, n in counters.items() if name.startswith(OBJECTS)
    }


def in_view(labels: Iterable[str], counters: Mapping[str, int]) -> dict[str, int]:
    """How many of these labels of a frame's objects are of each that is counted, 0 included; what
    is beyond the number of labels that are counted is `other`.
    """
    found = dict.fromkeys(objects_of(counters), 0)
    for label in labels:
        name = label[:LABEL_LENGTH]
        if name not in found and len(found) >= MOST_LABELS:
            name = OTHER
        found[name] = found.get(name, 0) + 1
    return found


def looks_of(counters: Mapping[str, int]) -> dict[str, dict[str, int]]:
    """Frames by how they were looked at, and by why."""
    found: dict[str, dict[str, int]] = {}
    for name, n in counters.items():
        if n and name.startswith(LOOKS_PREFIX):
            looked, _, reason = name.removeprefix(LOOKS_PREFIX).partition(":")
            found.setdefault(looked, {})[reason] = n
    return found


def share_looked(looks: Mapping[str, Mapping[str, int]]) -> float | None:
    """Share of frames, 0..1, that were looked at, whole or in part; None without frames."""
    frames = {looked: sum(reasons.values()) for looked, reasons in looks.items()}
    total = sum(frames.values())
    return 1 - frames.get("no", 0) / total if total else None


def escalations_of(counters: Mapping[str, int]) -> dict[str, int]:
    """Frames that the heavy model was to be asked about: done, or by why it was not."""
    return {
        name.removeprefix(ESCALATED): n
        for name, n in counters.items()
        if name.startswith(ESCALATED)
    }


# -- What was heard: counted in the hop of the stage that listens. `sound_blocks` counts what decode
# gave; each block is then told once, as a window by its outcome, or as lost.


SOUND_PREFIX = "sound:"
SOUND_BLOCKS = "sound_blocks"
SOUND_OUTCOMES = (*get_args(SoundOutcome), "lost")


class _ToldWindow(msgspec.Struct, frozen=True):
    outcome: SoundOutcome


class _Listened(msgspec.Struct, frozen=True):
    windows: tuple[_ToldWindow, ...]
    lost: int = 0


_decode_sounds = msgspec.msgpack.Decoder(_Listened).decode


def side_counters(stage: str, said: bytes) -> Mapping[str, int]:
    """The counters of what a stage beside the main path said (msgpack): of `sound` only."""
    if stage != SOUND:
        return {}
    told = _decode_sounds(said)
    outcomes = [window.outcome for window in told.windows] + ["lost"] * told.lost
    return {f"{SOUND_PREFIX}{name}": n for name, n in Counter(outcomes).items()}


def sounds_of(counters: Mapping[str, int]) -> dict[str, int]:
    """Blocks of a source's sound by what became of them; empty for one that has none."""
    if SOUND_BLOCKS not in counters:
        return {}
    return {name: counters.get(f"{SOUND_PREFIX}{name}", 0) for name in SOUND_OUTCOMES}


# -- How long a worker's stages waited and worked: counted in its memory, told when asked.


class Durations(msgspec.Struct):
    """A histogram of SHORT_BOUNDS_S. sum_us: of all, in microseconds.

    One thread adds; another may read, and finds the sum a moment before or after the counts.
    """

    counts: list[int] = msgspec.field(default_factory=lambda: [0] * (len(SHORT_BOUNDS_S) + 1))
    sum_us: int = 0

    def add_us(self, duration: int) -> None:
        """Count a duration in microseconds."""
        self.counts[bisect.bisect_left(_SHORT_BOUNDS_US, duration)] += 1
        self.sum_us += duration

    def plus(self, other: Durations) -> Durations:
        """Return both together."""
        counts = [a + b for a, b in zip(self.counts, other.counts, strict=True)]
        return Durations(counts, self.sum_us + other.sum_us)


class StageTimes(msgspec.Struct):
    """Of one stage.

    waited  for each batch: its first frame, from when the stage before had done it
    worked  for each batch: all of it
    frames  in all batches
    asks    what became of its questions, if it asks
    cache   what came of its look-ups, if it looks answers up
    footage  what it kept to learn from, if it keeps any
    """

    waited: Durations = msgspec.field(default_factory=Durations)
    worked: Durations = msgspec.field(default_factory=Durations)
    frames: int = 0
    asks: AskCounts | None = None
    cache: CacheCounts | None = None
    footage: FootageCounts | None = None

    def plus(self, other: StageTimes) -> StageTimes:
        """Both together; `other` is the later one."""
        return StageTimes(
            self.waited.plus(other.waited),
            self.worked.plus(other.worked),
            self.frames + other.frames,
            other.asks if self.asks is None else self.asks.plus(other.asks),
            other.cache if self.cache is None else self.cache.plus(other.cache),
            other.footage if self.footage is None else self.footage.plus(other.footage),
        )


class TimesOverLives:
    """The times of a worker's stages over all its lives.

    What a killed one had not told since it was last asked is lost: it was only in its memory.
    """

    def __init__(self) -> None:
        self._past: dict[str, StageTimes] = {}
        self._now: dict[str, StageTimes] = {}

    def told(self, now: Mapping[str, StageTimes]) -> None:
        """The living worker's, since it began."""
        self._now = dict(now)

    def died(self) -> None:
        """Another begins at nothing."""
        self._past, self._now = self.total(), {}

    def total(self) -> dict[str, StageTimes]:
        """By stage."""
        nothing = StageTimes()
        return {
            stage: self._past.get(stage, nothing).plus(self._now.get(stage, nothing))
            for stage in self._past.keys() | self._now.keys()
        }
