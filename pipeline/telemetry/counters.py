"""Counters of results, looks, sound and stages, and histograms of latencies.

Buckets grow by a quarter. A percentile is interpolated as Prometheus does it, as if the frames of a
bucket were distributed evenly, so its error is at most a quarter.
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
BOUNDS_S = tuple(0.0005 * 1.25**i for i in range(60))  # bounds of latencies in the store
SHORT_BOUNDS_S = tuple(0.0005 * 1.25**i for i in range(-12, 60))  # bounds of a stage's times
EVERY_BOUND = 3  # Prometheus gets every third bound, which is a factor of about 2
_SHORT_BOUNDS_US = tuple(bound * 1e6 for bound in SHORT_BOUNDS_S)
_NAMES = tuple(f"{PREFIX}{index}" for index in range(len(BOUNDS_S) + 1))


def upper_bounds(counts: Sequence[int], bounds: Sequence[float]) -> list[tuple[str, float]]:
    """Return a histogram in Prometheus' form: (upper bound in seconds as text, number up to it).

    counts  number of values in each bucket; the last bucket is above all bounds
    """
    total = 0
    cumulative: list[tuple[str, float]] = []
    for index, (bound, n) in enumerate(zip(bounds, counts, strict=False)):
        total += n
        if index % EVERY_BOUND == EVERY_BOUND - 1:
            cumulative.append((f"{bound:.6g}", float(total)))
    return [*cumulative, ("+Inf", float(sum(counts)))]


def latency_bounds(counters: Mapping[str, int]) -> list[tuple[str, float]]:
    """Return the latencies in a source's counters in Prometheus' form."""
    return upper_bounds([counters.get(name, 0) for name in _NAMES], BOUNDS_S)


def bucket(seconds: float) -> str:
    """Return the name of the counter for this latency."""
    return _NAMES[bisect.bisect_left(BOUNDS_S, seconds)]


def percentile(counters: Mapping[str, int], share: float) -> float | None:
    """Return the latency in seconds that `share` (0..1) of the frames stay below, None if none."""
    buckets = sorted(
        (int(name.removeprefix(PREFIX)), n) for name, n in counters.items() if n and PREFIX in name
    )
    rest = share * sum(n for _, n in buckets)
    for index, n in buckets:
        if rest <= n:
            low = 0.0
            if index:
                low = BOUNDS_S[index - 1]
            high = BOUNDS_S[min(index, len(BOUNDS_S) - 1)]  # the last bucket has no upper bound
            return low + (high - low) * rest / n
        rest -= n
    return None


# -- Counters of results, which change in the hop that publishes a frame. A result counts
# `looked:LOOKED:REASON`. If the heavy model was to be asked, it also counts `escalated:done` or
# `escalated:REASON`. Each track whose label is settled counts `objects:LABEL`. Labels come from a
# model, so hop.lua limits their number and counts the rest as `objects:other`.


LOOKS_PREFIX = "looked:"
ESCALATED = "escalated:"
OBJECTS = "objects:"
OTHER = "other"
MOST_LABELS = 100  # labels of a source that are counted; the same number as in hop.lua
LABEL_LENGTH = 64  # longer labels are cut


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
    """Return the counters that a published result (msgpack) increments, one name per increment.

    The output of a user's stage increments none.
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
    """Return the counters that the publishing stage's part of an end (msgpack) increments."""
    try:
        return _settled(_decode_last(said).settled)
    except msgspec.ValidationError:
        return ()


def _settled(tracks: Iterable[Settled]) -> tuple[str, ...]:
    return tuple(f"{OBJECTS}{track.label[:LABEL_LENGTH]}" for track in tracks)


def with_prefix(counters: Mapping[str, int], prefix: str) -> dict[str, int]:
    """Return the counters whose names start with `prefix`, without it."""
    chosen = [name for name in counters if name.startswith(prefix)]
    return {name.removeprefix(prefix): counters[name] for name in chosen}


def objects_of(counters: Mapping[str, int]) -> dict[str, int]:
    """Return the number of tracks with a settled label, by label."""
    return with_prefix(counters, OBJECTS)


def in_view(labels: Iterable[str], counters: Mapping[str, int]) -> dict[str, int]:
    """Return the number of objects of a frame for each counted label, including 0.

    labels  labels of the frame's objects; labels beyond the limit count as `other`
    """
    counts = dict.fromkeys(objects_of(counters), 0)
    for label in labels:
        name = label[:LABEL_LENGTH]
        if name not in counts and len(counts) >= MOST_LABELS:
            name = OTHER
        counts[name] = counts.get(name, 0) + 1
    return counts


def looks_of(counters: Mapping[str, int]) -> dict[str, dict[str, int]]:
    """Return the number of frames by kind of look and by reason."""
    frames: dict[str, dict[str, int]] = {}
    for name, n in with_prefix(counters, LOOKS_PREFIX).items():
        if n:
            looked, _, reason = name.partition(":")
            frames.setdefault(looked, {})[reason] = n
    return frames


def share_looked(looks: Mapping[str, Mapping[str, int]]) -> float | None:
    """Return the share of frames, 0..1, with a whole or partial look; None without frames."""
    frames = {looked: sum(reasons.values()) for looked, reasons in looks.items()}
    total = sum(frames.values())
    if not total:
        return None
    return 1 - frames.get("no", 0) / total


def escalations_of(counters: Mapping[str, int]) -> dict[str, int]:
    """Return the frames for the heavy model: those that are `done`, and others by reason."""
    return with_prefix(counters, ESCALATED)


# -- Counters of sound, which change in the hop of the stage `sound`. `sound_blocks` counts the
# blocks from decode; each of them then counts once as a window with an outcome, or as lost.


SOUND_PREFIX = "sound:"
SOUND_BLOCKS = "sound_blocks"
SOUND_OUTCOMES = (*get_args(SoundOutcome), "lost")


class _CountedWindow(msgspec.Struct, frozen=True):
    outcome: SoundOutcome


class _SoundOutput(msgspec.Struct, frozen=True):
    windows: tuple[_CountedWindow, ...]
    lost: int = 0


_decode_sounds = msgspec.msgpack.Decoder(_SoundOutput).decode


def side_counters(stage: str, output: bytes) -> Mapping[str, int]:
    """Return the increments of counters for the output (msgpack) of a side stage: `sound` only."""
    if stage != SOUND:
        return {}
    sound = _decode_sounds(output)
    outcomes = [window.outcome for window in sound.windows] + ["lost"] * sound.lost
    return {f"{SOUND_PREFIX}{name}": n for name, n in Counter(outcomes).items()}


def sounds_of(counters: Mapping[str, int]) -> dict[str, int]:
    """Return the blocks of a source's sound by outcome; empty for a source without sound."""
    if SOUND_BLOCKS not in counters:
        return {}
    return {name: counters.get(f"{SOUND_PREFIX}{name}", 0) for name in SOUND_OUTCOMES}


# -- Times of a worker's stages, which are kept in its memory and sent on request.


class Durations(msgspec.Struct):
    """A histogram with SHORT_BOUNDS_S. sum_us: sum of all durations in microseconds.

    One thread adds. Another may read, but the sum and the counts may then differ by a value.
    """

    counts: list[int] = msgspec.field(default_factory=lambda: [0] * (len(SHORT_BOUNDS_S) + 1))
    sum_us: int = 0

    def add_us(self, duration: int) -> None:
        """Count a duration in microseconds."""
        self.counts[bisect.bisect_left(_SHORT_BOUNDS_US, duration)] += 1
        self.sum_us += duration

    def plus(self, other: Durations) -> Durations:
        """Return the sum of both histograms."""
        counts = [a + b for a, b in zip(self.counts, other.counts, strict=True)]
        return Durations(counts, self.sum_us + other.sum_us)


class StageTimes(msgspec.Struct):
    """The times of one stage.

    waited   for each batch, the wait of its first frame since the stage before finished it
    worked   for each batch, the time of processing
    frames   number of frames in all batches
    asks     counts of its questions, if it asks
    cache    counts of its cache, if it has one
    footage  counts of the footage that it stores for learning, if it does
    """

    waited: Durations = msgspec.field(default_factory=Durations)
    worked: Durations = msgspec.field(default_factory=Durations)
    frames: int = 0
    asks: AskCounts | None = None
    cache: CacheCounts | None = None
    footage: FootageCounts | None = None

    def plus(self, other: StageTimes) -> StageTimes:
        """Return the sum of both; `other` is the later one."""
        asks = other.asks
        if self.asks is not None:
            asks = self.asks.plus(other.asks)
        cache = other.cache
        if self.cache is not None:
            cache = self.cache.plus(other.cache)
        footage = other.footage
        if self.footage is not None:
            footage = self.footage.plus(other.footage)
        return StageTimes(
            self.waited.plus(other.waited),
            self.worked.plus(other.worked),
            self.frames + other.frames,
            asks,
            cache,
            footage,
        )


class TimesOverLives:
    """The times of a worker's stages, summed over its restarts.

    The times since the last request are lost with a killed process.
    """

    def __init__(self) -> None:
        self._past: dict[str, StageTimes] = {}
        self._now: dict[str, StageTimes] = {}

    def update(self, now: Mapping[str, StageTimes]) -> None:
        """Set the times of the current process since its start."""
        self._now = dict(now)

    def restart(self) -> None:
        """Add the times of the current process to the past; the next process starts at zero."""
        self._past = self.total()
        self._now = {}

    def total(self) -> dict[str, StageTimes]:
        """Return the times by stage."""
        zero = StageTimes()
        stages = self._past.keys() | self._now.keys()
        return {each: self._past.get(each, zero).plus(self._now.get(each, zero)) for each in stages}
