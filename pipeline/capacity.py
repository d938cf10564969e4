"""How fast this machine takes frames through the graph: decoder and stages, without a store."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from pipeline import records
from pipeline.errors import FramegateError
from pipeline.frame_store import FrameStore, frame_store_bytes
from pipeline.hop import Attached
from pipeline.hosted_stage import HostedStage
from pipeline.inbox import Arrival
from pipeline.records import START, VERSION, Position, Record, Result
from pipeline.source import Form, Frame
from pipeline.spec import StageSpec
from pipeline.stage import Item, Stage

ROUND = 8
SLOTS = 2 * ROUND
SPARE = 0.8  # of the machine: the store, the printer and everything else want some

OpenStage = Callable[[StageSpec, "PrivateFrames"], Stage[Any]]


@dataclass
class Capacity:
    """What was measured.

    frames  how many went through; stage_s: wall seconds in each stage, decode included
    cpu_s   CPU seconds of all threads
    """

    frames: int = 0
    stage_s: dict[str, float] = field(default_factory=dict)
    cpu_s: float = 0.0

    def rate(self, stage: str) -> float:
        """Frames a second of one stage, working alone."""
        return self.frames / max(self.stage_s.get(stage, 0.0), 1e-9)

    def live_sources(self, fps: float, workers: Mapping[str, Sequence[str]], cores: int) -> float:
        """How many sources of `fps` this machine holds: by its cores, and by its busiest worker.

        A worker takes one batch after the other, but decoding has a thread for each source.
        """
        busiest = max(
            sum(self.stage_s.get(stage, 0.0) for stage in hosted if stage != "decode")
            for hosted in workers.values()
        )
        by_worker = self.frames / max(busiest, 1e-9)
        by_cores = cores * self.frames / max(self.cpu_s, 1e-9)
        return SPARE * min(by_worker, by_cores) / fps


class PrivateFrames:
    """A frame store of this process alone, for frames of one form at a time."""

    def __init__(self) -> None:
        self._store: FrameStore | None = None
        self._form: Form | None = None

    def put(self, frame: Frame, position: Position) -> None:
        """Copy a frame's pixels."""
        if self._store is None or frame.form != self._form:
            self._form = frame.form
            self._store = _private_store(frame.nbytes)
        with self._store.writing(position.seq % SLOTS, position) as pixels:
            frame.write(pixels)

    def pixels(self, item: Item) -> AbstractContextManager[memoryview]:
        """What Context.pixels is in a worker."""
        assert self._store is not None
        return self._store.reading(item.position.seq % SLOTS, item.position)


def _private_store(nbytes: int) -> FrameStore:
    descriptor = os.memfd_create("framegate-check")
    try:
        os.ftruncate(descriptor, frame_store_bytes(SLOTS, nbytes))
        return FrameStore(descriptor, SLOTS, nbytes)
    finally:
        os.close(descriptor)


def _never(stage: str, source: str, position: Position) -> bool:  # noqa: ARG001
    """Nobody decodes anything again here."""
    return False


class Measuring:
    """Takes sources through the stages of the main path, one after the other. One thread.

    models  those that made the last result
    """

    def __init__(self, specs: Sequence[StageSpec], open_stage: OpenStage) -> None:
        """Open every stage; what one raises goes through."""
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
        """Stages of which nobody would answer what they ask, and why."""
        asking = {h.spec.name: h.stage.asks for h in self._hosted if h.stage.asks is not None}
        return {name: why for name, asks in asking.items() if (why := asks.absent()) is not None}

    def leaves_out(self, form: Form) -> list[str]:
        """What stages may leave out of pictures of this form, a line each that does."""
        return [said for hosted in self._hosted if (said := hosted.stage.leaves_out(form))]

    def measure(self, source: str, frames: Iterator[Frame], seconds: float) -> Capacity:
        """Rounds of frames for `seconds`; the first round only warms up, unless it is alone."""
        for hosted in self._hosted:
            hosted.attach(source, Attached(b"", START, None, START))
        first = self._round(source, frames, 0)
        total = Capacity(stage_s=dict.fromkeys(first.stage_s, 0.0))
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

    def _round(self, source: str, frames: Iterator[Frame], begun: int) -> Capacity:
        one = Capacity()
        cpu, began = time.process_time(), time.monotonic()
        arrivals = []
        for number, frame in enumerate(islice(frames, ROUND), begun):
            position = Position(1, number)
            self._frames.put(frame, position)
            record = Record(VERSION, frame.pts, 0.0, began, number, frame.form)
            arrivals.append(Arrival(position, record))
        one.frames = len(arrivals)
        one.stage_s["decode"] = time.monotonic() - began
        said = {"decode": arrivals}
        for hosted in self._hosted:
            began = time.monotonic()
            spec = hosted.spec
            said[spec.name] = self._answers(hosted, source, said[spec.input or ""])
            one.stage_s[spec.name] = time.monotonic() - began
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
    """A picture of noise, to measure with where there is no source."""

    pts = arrived_mono = captured = None
    key_frame = False

    def __init__(self, form: Form) -> None:
        self.form = form
        self.nbytes = form.nbytes
        self._pixels = os.urandom(form.nbytes)

    def write(self, slot: memoryview) -> None:
        """Fill the slot."""
        slot[: self.nbytes] = self._pixels
