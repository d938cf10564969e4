"""The status of a run and the times of its stages, sent to the HTTP process."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from framegate.pipeline.contracts.queries import AskCounts, CacheCounts, FootageCounts
from framegate.pipeline.telemetry.histograms import Durations


class WorkerStatus(msgspec.Struct, frozen=True):
    """A worker. pid: None while no process runs; restarts: number of times it was restarted."""

    name: str
    pid: int | None
    ready: bool
    restarts: int


class SourceStatus(msgspec.Struct, frozen=True):
    """The settings of a source. url: without user and password; hears: its sound is used."""

    name: str
    url: str
    live: bool
    past: int
    credit: int
    slots: int
    shared_bytes: int
    hears: bool = False


class SpanCounts(msgspec.Struct):
    """Counts of the spans of a stage since its worker began.

    made     spans that were given to the sender
    sent     spans that the collector accepted
    failed   spans that the collector did not accept in time
    dropped  spans that were not made, because too many waited to be sent
    """

    made: int = 0
    sent: int = 0
    failed: int = 0
    dropped: int = 0

    @property
    def waiting(self) -> int:
        """Return the number of spans that are neither sent nor failed."""
        return self.made - self.sent - self.failed

    def plus(self, later: SpanCounts | None) -> SpanCounts:
        """Return the sums of both."""
        if later is None:
            return self
        return SpanCounts(
            self.made + later.made,
            self.sent + later.sent,
            self.failed + later.failed,
            self.dropped + later.dropped,
        )


class StageTimes(msgspec.Struct):
    """The times of one stage.

    waited   for each batch, the wait of its first frame since the stage before finished it
    worked   for each batch, the time of processing
    frames   number of frames in all batches
    asks     counts of its questions, if it asks
    cache    counts of its cache, if it has one
    footage  counts of the footage that it stores for learning, if it does
    spans    counts of its spans, if frames are traced
    """

    waited: Durations = msgspec.field(default_factory=Durations)
    worked: Durations = msgspec.field(default_factory=Durations)
    frames: int = 0
    asks: AskCounts | None = None
    cache: CacheCounts | None = None
    footage: FootageCounts | None = None
    spans: SpanCounts | None = None

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
        spans = other.spans
        if self.spans is not None:
            spans = self.spans.plus(other.spans)
        return StageTimes(
            self.waited.plus(other.waited),
            self.worked.plus(other.worked),
            self.frames + other.frames,
            asks,
            cache,
            footage,
            spans,
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


class RunStatus(msgspec.Struct, frozen=True):
    """The status of a run.

    unready  reasons why the run is not ready; empty if it is ready
    times    times of each stage, including killed workers
    sinks    names of the sinks
    """

    run: str
    draining: bool
    unready: list[str]
    workers: list[WorkerStatus]
    sources: list[SourceStatus]
    times: dict[str, StageTimes]
    sinks: tuple[str, ...] = ()
