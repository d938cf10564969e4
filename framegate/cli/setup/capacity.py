"""Measure how fast this machine processes frames: decoder and stages, without a store."""

from __future__ import annotations

import functools
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from framegate.pipeline.config.config import Config
from framegate.pipeline.config.graph import stage_specs
from framegate.pipeline.contracts import records
from framegate.pipeline.contracts.errors import FramegateError
from framegate.pipeline.contracts.queries import PlaceFailed, Query, QueryId
from framegate.pipeline.contracts.records import START, VERSION, Position, Record
from framegate.pipeline.contracts.results import Result
from framegate.pipeline.contracts.source import Form, Frame
from framegate.pipeline.contracts.spec import StageSpec
from framegate.pipeline.contracts.stage import Asking, Item, Stage
from framegate.pipeline.engine.context_alone import context_alone
from framegate.pipeline.engine.hosted_stage import HostedStage
from framegate.pipeline.engine.inbox import Arrival
from framegate.pipeline.heavy.asks import Asks
from framegate.pipeline.heavy.places import open_asks
from framegate.pipeline.shared_memory.frame_store import FrameStore, frame_store_bytes
from framegate.pipeline.store.hop import Attached, Commit
from framegate.pipeline.system.loading import load, options_of
from framegate.pipeline.system.machine import cores, queued_s
from framegate.pipeline.telemetry.little_found import advice_of

ROUND = 8
SLOTS = 2 * ROUND
_STEP = 4099  # bytes by which the noise is shifted; a prime, so that no two pictures are equal
SPARE = 0.8  # usable share of the machine; store, printer and other programs need the rest

NEVER = Asking()
LONG_AGO_S = 3600.0  # age of each frame, so that no question about it is in time

OpenStage = Callable[[StageSpec, "PrivateFrames"], Stage[Any]]


@dataclass(frozen=True)
class Heavy:
    """The cost of a heavy model.

    look_s, cpu_s  wall and CPU seconds of one look on this machine; 0 if unknown
    lanes          looks at the same time
    asking         how often it may be asked
    """

    look_s: float = 0.0
    cpu_s: float = 0.0
    lanes: int = 1
    asking: Asking = NEVER

    def fits(self, room: float, a_frame: float, a_look: float, fps: float) -> float:
        """Return how many sources of `fps` fit in `room`, by what a frame and a look take of it.

        n sources ask min(n * per_s, all_per_s) questions a second, so n sources fit if they fit
        with either of these rates.
        """
        per_s, all_per_s, share = self.asking
        always = fps * (a_frame + share * a_look)
        each = always + min(per_s, fps) * a_look
        with_all = (room - all_per_s * a_look) / max(always, 1e-9)
        return max(room / max(each, 1e-9), with_all)

    def in_words(self) -> str:
        """Return the cost in words; "" if the model is never asked."""
        per_s, all_per_s, share = self.asking
        if not self.look_s:
            return ""
        audited = ""
        if share:
            audited = f", and {share:.2g} of all frames"
        return (
            f", heavy pass {self.lanes / self.look_s:.1f} looks/s (asked at most {per_s:g} times a "
            f"second and source, {all_per_s:g} of all cameras{audited})"
        )


@dataclass
class Capacity:
    """A measurement of stages.

    frames   frames that were processed
    stage_s  seconds in each stage, decode included, without waits for a busy core
    cpu_s    CPU seconds of all threads
    heavy    additional cost where a heavy model is asked
    """

    frames: int = 0
    stage_s: dict[str, float] = field(default_factory=dict)
    cpu_s: float = 0.0
    heavy: Heavy = field(default_factory=Heavy)

    def rate(self, stage: str) -> float:
        """Return the frames per second of one stage that runs alone."""
        return self.frames / max(self.stage_s.get(stage, 0.0), 1e-9)

    def live_sources(self, fps: float, workers: Mapping[str, Sequence[str]], cores: int) -> float:
        """Return how many sources of `fps` fit: by cores, by the busiest worker, and by the heavy
        model if it is asked as often as allowed.
        """
        by_lanes = self.heavy.fits(SPARE * self.heavy.lanes, 0.0, self.heavy.look_s, fps)
        return min(self._by_frames(fps, workers, cores), by_lanes)

    def most_fps(self, workers: Mapping[str, Sequence[str]], cores: int) -> float:
        """Return the highest rate of one source that cores and workers can process, frames/s."""
        slow = 0.0
        fast = 2.0 * self.frames / max(self.cpu_s, 1e-9) * cores
        # A source of `slow` fits, one of `fast` does not: bisection, to 2^-40 of the first range.
        for _ in range(40):
            middle = (slow + fast) / 2
            if self._by_frames(middle, workers, cores) >= 1:
                slow = middle
            else:
                fast = middle
        return slow

    def _by_frames(self, fps: float, workers: Mapping[str, Sequence[str]], cores: int) -> float:
        """Return how many sources of `fps` cores and workers can process.

        A worker processes one batch after the other, but decoding has a thread per source. Workers
        that host the same stages share the sources, but not the frames of one source: their number
        counts only if each of them can process a whole source.
        """
        a_frame = self.cpu_s / max(self.frames, 1)
        fit = self.heavy.fits(SPARE * cores, a_frame, self.heavy.cpu_s, fps)
        all_hosted = list(workers.values())
        for hosted in all_hosted:
            busy_s = sum(self.stage_s.get(stage, 0.0) for stage in hosted if stage != "decode")
            by_worker = SPARE * self.frames / max(busy_s, 1e-9) / fps
            if by_worker >= 1:
                by_worker *= all_hosted.count(hosted)
            fit = min(fit, by_worker)
        return fit


class Stopwatch:
    """Measures how long a piece of work would take if nothing else ran on this machine."""

    def __init__(self) -> None:
        self._queued_s = queued_s()
        self._cpu_s = time.process_time()
        self._began_mono = time.monotonic()

    def stop(self) -> float:
        """Return the seconds of work since the watch was made; see `undisturbed_s`."""
        wall_s = time.monotonic() - self._began_mono
        cpu_s = time.process_time() - self._cpu_s
        return undisturbed_s(wall_s, cpu_s, queued_s() - self._queued_s, cores())


def undisturbed_s(wall_s: float, cpu_s: float, queued_s: float, cores: int) -> float:
    """Return the seconds that a piece of work would take on an idle machine.

    wall_s    measured time
    cpu_s     CPU time of all its threads
    queued_s  time for which its threads waited for a core, added up

    Threads may have waited at the same time, so less than `queued_s` may have been lost. The result
    is never less than the CPU time on all cores.
    """
    return min(wall_s, max(wall_s - queued_s, cpu_s / cores))


class PrivateFrames:
    """A frame store of this process alone; it has frames of one form at a time."""

    def __init__(self) -> None:
        self._store: FrameStore | None = None
        self._form: Form | None = None
        self._last = START

    def put(self, frame: Frame, position: Position) -> None:
        """Copy a frame's pixels."""
        if self._store is None or frame.form != self._form:
            self._form = frame.form
            self._store = _private_store(frame.nbytes)
        with self._store.writing(position.seq, position) as pixels:
            frame.write(pixels)
        self._last = position

    def question(self, number: int) -> Query:
        """Return a question about the last frame."""
        assert self._store is not None
        assert self._form is not None
        with self._store.reading(self._last.seq, self._last) as pixels:
            content = bytes(pixels[: self._form.nbytes])
        return Query(QueryId("check", Position(1, number)), self._form, content)

    def pixels(self, item: Item) -> AbstractContextManager[memoryview]:
        """Lend a frame's pixels, as Context.pixels does in a worker."""
        assert self._store is not None
        return self._store.reading(item.position.seq, item.position)


def _private_store(nbytes: int) -> FrameStore:
    descriptor = os.memfd_create("framegate-check")
    try:
        os.ftruncate(descriptor, frame_store_bytes(SLOTS, nbytes))
        return FrameStore(descriptor, SLOTS, nbytes)
    finally:
        os.close(descriptor)


def _never(stage: str, source: str, position: Position) -> bool:  # noqa: ARG001
    """Return False: a measurement decodes nothing again."""
    return False


class Measuring:
    """Runs sources through the stages of the main path, one after the other. One thread.

    models  models that made the last result
    advice  what to try, if much moved and little was found in the last measurement
    """

    def __init__(self, specs: Sequence[StageSpec], open_stage: OpenStage) -> None:
        """Open every stage; errors of a stage are not caught."""
        self.models: tuple[str, ...] = ()
        self.advice: str | None = None
        self._counters: Counter[str] = Counter()
        self._frames = PrivateFrames()
        self._hosted = [
            HostedStage(spec, open_stage(spec, self._frames), 0, {})
            for spec in specs
            if spec.main and spec.input is not None
        ]

    def close(self) -> None:
        """Close the stages."""
        for hosted in self._hosted:
            hosted.stage.close()

    def absent(self) -> dict[str, str]:
        """Return the stages whose questions no place would answer, with the reason."""
        reasons = {}
        for hosted in self._hosted:
            if hosted.stage.asks is None:
                continue
            reason = hosted.stage.asks.absent()
            if reason is not None:
                reasons[hosted.spec.name] = reason
        return reasons

    def leaves_out(self, form: Form) -> list[str]:
        """Return one line for each stage that may leave out parts of pictures of this form."""
        texts = [hosted.stage.leaves_out(form) for hosted in self._hosted]
        return [text for text in texts if text]

    def measure(self, source: str, frames: Iterator[Frame], seconds: float) -> Capacity:
        """Process rounds of frames for `seconds`; the first round warms up, unless it is the only
        one.
        """
        for hosted in self._hosted:
            hosted.attach(source, Attached(b"", START, None, START))
        self._counters.clear()
        first = self._round(source, frames, 0)
        first.heavy = self._heavy()
        total = Capacity(stage_s=dict.fromkeys(first.stage_s, 0.0), heavy=first.heavy)
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            measured = self._round(source, frames, first.frames + total.frames)
            if measured.frames == 0:
                break
            total.frames += measured.frames
            total.cpu_s += measured.cpu_s
            for stage, seconds_taken in measured.stage_s.items():
                total.stage_s[stage] += seconds_taken
        return total if total.frames else first

    def _heavy(self) -> Heavy:
        """Measure a look of the heavy model at the last frame, after another one that warms up."""
        for hosted in self._hosted:
            asks = hosted.stage.asks
            if not isinstance(asks, Asks) or not any(hosted.stage.asking()):
                continue
            if asks.absent() is not None:
                continue
            look_s = cpu_s = 0.0
            for number in range(2):
                question = self._frames.question(number)
                cpu, looking = time.process_time(), Stopwatch()
                try:
                    asks.trial(question)
                except PlaceFailed:  # it is away, so its cost is unknown
                    return Heavy()
                look_s, cpu_s = looking.stop(), time.process_time() - cpu
            return Heavy(look_s, cpu_s, asks.lanes, hosted.stage.asking())
        return Heavy()

    def _round(self, source: str, frames: Iterator[Frame], begun: int) -> Capacity:
        measured = Capacity()
        cpu_s = time.process_time()
        began_mono = time.monotonic()
        decoding = Stopwatch()
        arrivals = []
        for number, frame in enumerate(islice(frames, ROUND), begun):
            position = Position(1, number)
            self._frames.put(frame, position)
            record = Record(VERSION, frame.pts, 0.0, began_mono - LONG_AGO_S, number, frame.form)
            arrivals.append(Arrival(position, record))
        measured.frames = len(arrivals)
        measured.stage_s["decode"] = decoding.stop()
        outputs = {"decode": arrivals}
        for hosted in self._hosted:
            spec, watch = hosted.spec, Stopwatch()
            outputs[spec.name] = self._answers(hosted, source, outputs[spec.input or ""])
            measured.stage_s[spec.name] = watch.stop()
        measured.cpu_s = time.process_time() - cpu_s
        return measured

    def _answers(self, hosted: HostedStage, source: str, arrivals: list[Arrival]) -> list[Arrival]:
        onward: list[Arrival] = []
        while arrivals:
            move = hosted.answer({source: arrivals}, _never)[source]
            if move.commit.asides:
                raise FramegateError(f"stage {hosted.spec.name} fails on frames of {source}")
            if move.commit.last == move.commit.previous:
                break
            hosted.accept(source, move)
            if hosted.spec.publishes:
                self._take_result(move.commit)
            onward += move.onward
            arrivals = move.undone
        return onward

    def _take_result(self, commit: Commit) -> None:
        for name, growth in commit.counts:
            self._counters[name] += growth
        newest = records.decode(commit.entries[-1].data, Result)
        self.models = newest.models
        self.advice = advice_of(self._counters, newest.models, newest.look_size)


def open_measuring(config: Config, folder: Path) -> Measuring:
    """Open the stages of the main path, to measure their capacity."""

    def open_stage(spec: StageSpec, frames: PrivateFrames) -> Stage[Any]:
        kind = load(spec.use)
        before = spec.input or ""
        asks = functools.partial(open_asks, store=config.store.place() or "")
        # All sources count as live: a file's frame would wait for the heavy model, whose time is
        # measured separately.
        context = context_alone(
            frames.pixels, time.time, folder, before, live=lambda _: True, asks=asks
        )
        stage: Stage[Any] = kind(options_of(kind, spec.options), context)
        return stage

    return Measuring(stage_specs(config.stages), open_stage)


class MadeFrame:
    """A picture of noise, for measurements without a source, or with one that sets the pace.

    If it is not `still`, the pixels differ each time that it is written: the stages compute nothing
    for an unchanged picture, so any number of sources would seem to fit.
    """

    pts = arrived_mono = captured = camera_events = None
    key_frame, sound, undecoded = False, (), ()

    def __init__(self, form: Form, still: bool = False) -> None:
        self.form = form
        self.nbytes = form.nbytes
        self._step = _STEP
        if still:
            self._step = 0
        self._pixels = memoryview(os.urandom(form.nbytes))
        self._shift = 0

    def write(self, slot: memoryview) -> None:
        """Fill the slot."""
        self._shift = (self._shift + self._step) % self.nbytes
        left = self.nbytes - self._shift
        slot[:left] = self._pixels[self._shift :]
        slot[left : self.nbytes] = self._pixels[: self._shift]
