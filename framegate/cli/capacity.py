"""How fast this machine takes frames through the graph: decoder and stages, without a store."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from framegate.pipeline.contracts import records
from framegate.pipeline.contracts.errors import FramegateError
from framegate.pipeline.contracts.queries import PlaceFailed, Query, QueryId
from framegate.pipeline.contracts.records import START, VERSION, Position, Record
from framegate.pipeline.contracts.results import Result
from framegate.pipeline.contracts.source import Form, Frame
from framegate.pipeline.contracts.spec import StageSpec
from framegate.pipeline.contracts.stage import Asking, Item, Stage
from framegate.pipeline.engine.hosted_stage import HostedStage
from framegate.pipeline.engine.inbox import Arrival
from framegate.pipeline.heavy.asks import Asks
from framegate.pipeline.shared_memory.frame_store import FrameStore, frame_store_bytes
from framegate.pipeline.store.hop import Attached
from framegate.pipeline.system.machine import cores, queued_s

ROUND = 8
SLOTS = 2 * ROUND
_STEP = 4099  # bytes by which noise moves on, a prime
SPARE = 0.8  # of the machine: the store, the printer and everything else want some

NEVER = Asking()
LONG_AGO_S = 3600.0  # frames come as if they had: who may be asked answers none in time

OpenStage = Callable[[StageSpec, "PrivateFrames"], Stage[Any]]


@dataclass(frozen=True)
class Heavy:
    """The cost of a heavy model: wall and CPU seconds of a look (here), and looks at once.

    asking  how often it may be asked
    """

    look_s: float = 0.0
    cpu_s: float = 0.0
    lanes: int = 1
    asking: Asking = NEVER

    def fits(self, room: float, a_frame: float, a_look: float, fps: float) -> float:
        """Return how many sources of `fps` fit in `room`, by what a frame and a look take of it."""
        per_s, all_per_s, share = self.asking
        always = fps * (a_frame + share * a_look)
        each = always + min(per_s, fps) * a_look
        with_all = (room - all_per_s * a_look) / max(always, 1e-9)
        return max(room / max(each, 1e-9), with_all)

    def told(self) -> str:
        """Return the cost in words; "" if the model is never asked."""
        per_s, all_per_s, share = self.asking
        if not self.look_s:
            return ""
        audited = f", and {share:.2g} of all frames" if share else ""
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
        """Frames a second of one stage, working alone."""
        return self.frames / max(self.stage_s.get(stage, 0.0), 1e-9)

    def live_sources(self, fps: float, workers: Mapping[str, Sequence[str]], cores: int) -> float:
        """How many sources of `fps` this machine holds: by its cores, by its busiest worker, and by
        who is asked, as often as may be.
        """
        by_lanes = self.heavy.fits(SPARE * self.heavy.lanes, 0.0, self.heavy.look_s, fps)
        return min(self._by_frames(fps, workers, cores), by_lanes)

    def most_fps(self, workers: Mapping[str, Sequence[str]], cores: int) -> float:
        """The highest rate of one source that cores and workers hold, frames a second."""
        slow, fast = 0.0, 2.0 * self.frames / max(self.cpu_s, 1e-9) * cores
        for _ in range(40):
            middle = (slow + fast) / 2
            fits = self._by_frames(middle, workers, cores) >= 1
            slow, fast = (middle, fast) if fits else (slow, middle)
        return slow

    def _by_frames(self, fps: float, workers: Mapping[str, Sequence[str]], cores: int) -> float:
        """A worker takes one batch after the other, but decoding has a thread for each source.
        Workers that host the same stages share the sources, but not the frames of one.
        """
        heavy, a_frame = self.heavy, self.cpu_s / max(self.frames, 1)
        most = heavy.fits(SPARE * cores, a_frame, heavy.cpu_s, fps)
        all_hosted = list(workers.values())
        for hosted in all_hosted:
            busy = sum(self.stage_s.get(stage, 0.0) for stage in hosted if stage != "decode")
            one = SPARE * self.frames / max(busy, 1e-9) / fps
            most = min(most, one * all_hosted.count(hosted) if one >= 1 else one)
        return most


class Stopwatch:
    """Measures a piece of work as this machine would do it if nothing else ran on it."""

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
    """Return what a piece of work would take on an idle machine, in seconds.

    wall_s    what it took
    cpu_s     CPU time of all its threads
    queued_s  time for which its threads waited for a core, added up

    Threads may have waited at the same time, so less than `queued_s` may have been lost. The result
    is never less than the CPU time on all cores.
    """
    return min(wall_s, max(wall_s - queued_s, cpu_s / cores))


class PrivateFrames:
    """A frame store of this process alone, for frames of one form at a time."""

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
        """One about the last frame."""
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
    """

    def __init__(self, specs: Sequence[StageSpec], open_stage: OpenStage) -> None:
        """Open every stage; errors of a stage are not caught."""
        self.models: tuple[str, ...] = ()
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
        asking = {h.spec.name: h.stage.asks for h in self._hosted if h.stage.asks is not None}
        return {name: why for name, asks in asking.items() if (why := asks.absent()) is not None}

    def leaves_out(self, form: Form) -> list[str]:
        """Return one line for each stage that may leave out parts of pictures of this form."""
        return [said for hosted in self._hosted if (said := hosted.stage.leaves_out(form))]

    def measure(self, source: str, frames: Iterator[Frame], seconds: float) -> Capacity:
        """Process rounds of frames for `seconds`; the first round warms up, unless it is the only
        one.
        """
        for hosted in self._hosted:
            hosted.attach(source, Attached(b"", START, None, START))
        first = self._round(source, frames, 0)
        first.heavy = self._heavy()
        total = Capacity(stage_s=dict.fromkeys(first.stage_s, 0.0), heavy=first.heavy)
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            one = self._round(source, frames, first.frames + total.frames)
            if one.frames == 0:
                break
            total.frames += one.frames
            total.cpu_s += one.cpu_s
            for stage, taken in one.stage_s.items():
                total.stage_s[stage] += taken
        return total if total.frames else first

    def _heavy(self) -> Heavy:
        """Two looks at the last frame by who is asked, the first to warm up."""
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
                except PlaceFailed:  # away: what it would take is not known
                    return Heavy()
                look_s, cpu_s = looking.stop(), time.process_time() - cpu
            return Heavy(look_s, cpu_s, asks.lanes, hosted.stage.asking())
        return Heavy()

    def _round(self, source: str, frames: Iterator[Frame], begun: int) -> Capacity:
        one = Capacity()
        cpu, began = time.process_time(), time.monotonic()
        decoding = Stopwatch()
        arrivals = []
        for number, frame in enumerate(islice(frames, ROUND), begun):
            position = Position(1, number)
            self._frames.put(frame, position)
            record = Record(VERSION, frame.pts, 0.0, began - LONG_AGO_S, number, frame.form)
            arrivals.append(Arrival(position, record))
        one.frames = len(arrivals)
        one.stage_s["decode"] = decoding.stop()
        said = {"decode": arrivals}
        for hosted in self._hosted:
            spec, answering = hosted.spec, Stopwatch()
            said[spec.name] = self._answers(hosted, source, said[spec.input or ""])
            one.stage_s[spec.name] = answering.stop()
        one.cpu_s = time.process_time() - cpu
        return one

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
                self.models = records.decode(move.commit.entries[-1].data, Result).models
            onward += move.onward
            arrivals = move.undone
        return onward


class MadeFrame:
    """A picture of noise, to measure with where no frames come faster than their source's pace.

    It is another one each time that it is written: of what does not change, or was seen before,
    nothing is computed, and any number of sources would seem to fit.
    """

    pts = arrived_mono = captured = None
    key_frame, sound = False, ()

    def __init__(self, form: Form) -> None:
        self.form = form
        self.nbytes = form.nbytes
        self._pixels = memoryview(os.urandom(form.nbytes))
        self._shift = 0

    def write(self, slot: memoryview) -> None:
        """Fill the slot."""
        self._shift = (self._shift + _STEP) % self.nbytes
        left = self.nbytes - self._shift
        slot[:left] = self._pixels[self._shift :]
        slot[left : self.nbytes] = self._pixels[: self._shift]
