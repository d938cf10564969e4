"""The baseline: the same four stages in four processes, joined by `multiprocessing.Queue`.

What a good engineer would write in an afternoon: no store, no positions, nothing survives. Records
travel as references (msgpack bytes of the same Record; a pickled Record was dearer), pixels lie in
the same frame store, frames are paced by the same Pace.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from multiprocessing import reduction
from pathlib import Path
from typing import Any

from benchmarks.harness.engine_run import RunFailed
from benchmarks.harness.null_source import NullDetect, NullOptions, NullSource
from benchmarks.harness.process_tree import Usage, usage
from framegate.pipeline.contracts import records
from framegate.pipeline.contracts.records import VERSION, Position, Record
from framegate.pipeline.contracts.source import Form
from framegate.pipeline.contracts.stage import Context, Item, Stage
from framegate.pipeline.engine.context_alone import context_alone
from framegate.pipeline.ingest.due_times import Pace
from framegate.pipeline.shared_memory.frame_store import FrameStore, frame_store_bytes
from framegate.pipeline.shared_memory.mapping import make_shared_file
from framegate.stages.escalate import Escalate
from framegate.stages.publish import Publish

# In flight are at most three full queues and a frame in each of four processes: about the credit of
# the engine, 32.
QUEUE_LENGTH = 9
SLOTS = 48
KEPT_DELAYS = 1 << 16
_STAGES: tuple[tuple[str, type[Stage[Any]]], ...] = (
    ("detect", NullDetect),
    ("escalate", Escalate),
    ("cache", Publish),
)
_spawn = multiprocessing.get_context("spawn")


@dataclass(frozen=True, slots=True)
class Job:
    """What a chain works on. phases_s: one source each; live: paced by pts."""

    phases_s: tuple[float, ...]
    live: bool
    fps: int = 30


@dataclass(frozen=True, slots=True)
class Sample:
    """How far the chain was at one moment, and what it had used."""

    mono: float
    published: int
    usage: Usage


class Shared:
    """What all processes see: the frame stores, the count of published frames, a stop flag."""

    def __init__(self, job: Job) -> None:
        self.form = Form(NullOptions.width, NullOptions.height)
        nbytes = frame_store_bytes(SLOTS, self.form.nbytes)
        self._descriptors = [make_shared_file(nbytes, "the baseline") for _ in job.phases_s]
        self.published: Any = _spawn.RawValue("Q", 0)
        self.stop: Any = _spawn.RawValue("b", 0)
        self.delays_s: Any = _spawn.RawArray("d", KEPT_DELAYS)

    def __getstate__(self) -> dict[str, Any]:
        """For a child: the descriptors are handed over as such."""
        handed = [reduction.DupFd(each) for each in self._descriptors]
        return {**self.__dict__, "_descriptors": handed}

    def frame_stores(self) -> list[FrameStore]:
        """In a child: the frame store of each source."""
        given: Any = self._descriptors
        descriptors = [each.detach() for each in given]
        return [FrameStore(each, SLOTS, self.form.nbytes) for each in descriptors]

    def close(self) -> None:
        """In the parent: let the frame stores go."""
        for descriptor in self._descriptors:
            os.close(descriptor)


class QueueChain:
    """The four processes; gone after the block."""

    def __init__(self, job: Job) -> None:
        self._shared = Shared(job)
        length = QUEUE_LENGTH * len(job.phases_s)
        # Kept: a queue's semaphores are unlinked with it, and a child that starts late needs them.
        self._queues = queues = [_spawn.Queue(length) for _ in _STAGES]
        self._processes = [_spawn.Process(target=_decode, args=(job, self._shared, queues[0]))]
        for index in range(len(_STAGES)):
            onward = queues[index + 1] if index + 1 < len(queues) else None
            given = (index, job, self._shared, queues[index], onward)
            self._processes.append(_spawn.Process(target=_serve, args=given))
        for process in self._processes:
            process.start()

    def __enter__(self) -> QueueChain:
        return self

    def __exit__(self, *_: object) -> None:
        self._shared.stop.value = 1
        for process in self._processes:
            process.join(10)
            if process.is_alive():
                process.kill()
                process.join()
        self._shared.close()

    def wait_for(self, frames: int, timeout_s: float = 60.0) -> None:
        """Until that many frames came out. RunFailed when they do not."""
        deadline = time.monotonic() + timeout_s
        while self._shared.published.value < frames:
            if time.monotonic() > deadline or not all(p.is_alive() for p in self._processes):
                raise RunFailed("a stage of the baseline ended, or it does not get on")
            time.sleep(0.05)

    def sample(self) -> Sample:
        """Where it stands, and what its four processes have used."""
        used = [usage(process.pid) for process in self._processes if process.pid is not None]
        by_pid = {pid: seconds for each in used for pid, seconds in each.by_pid.items()}
        names = {pid: name for each in used for pid, name in each.commands.items()}
        return Sample(time.monotonic(), self._shared.published.value, Usage(by_pid, names))

    def delays_s(self, first: int, last: int) -> list[float]:
        """Seconds between when each of these frames was due and when it came out."""
        return [self._shared.delays_s[n % KEPT_DELAYS] for n in range(first, last)]


class _Ahead:
    """One source's next frame, its pixels in place before it is due."""

    def __init__(self, name: str, phase_s: float, job: Job, store: FrameStore) -> None:
        self.name = name
        self._pace = Pace("realtime" if job.live else "fast")
        self._frames = iter(NullSource(NullOptions(fps=job.fps), phase_s))
        self._store = store
        self._number = 0
        self._make()

    def _make(self) -> None:
        self.frame = next(self._frames)
        at = Position(1, self._number)
        with self._store.writing(self._number, at) as pixels:
            self.frame.write(pixels)
        self.pts, self.ready = self.frame.pts, time.monotonic()

    def wait_s(self, now: float) -> float:
        return self._pace.wait_s(self.pts, self.ready, now)

    def take(self, now: float, wall: float) -> tuple[str, Position, Record]:
        """The frame's record; the next frame is made."""
        number = self._number
        self._pace.passed(self.pts, self.ready)
        record = Record(VERSION, self.pts, wall, now, number, self.frame.form)
        self._number += 1
        self._make()
        return self.name, Position(1, number), record


def _names(job: Job) -> list[str]:
    return [f"s{n}" for n in range(len(job.phases_s))]


def _decode(job: Job, shared: Shared, onward: Any) -> None:
    stores = shared.frame_stores()
    each = zip(_names(job), job.phases_s, stores, strict=True)
    ahead = [_Ahead(name, phase, job, store) for name, phase, store in each]
    while not shared.stop.value:
        now, wall = time.monotonic(), time.time()
        waits = [source.wait_s(now) for source in ahead]
        for source, wait in zip(ahead, waits, strict=True):
            if wait == 0.0 and not _put(onward, _pack(*source.take(now, wall)), shared):
                return
        if min(waits) > 0.0:
            time.sleep(min(waits))
    _put(onward, None, shared)


def _put(onward: Any, message: Any, shared: Shared) -> bool:
    """Put, or give up where nobody takes any more; whether it was put."""
    while True:
        try:
            onward.put(message, timeout=1.0)
        except queue.Full:
            if shared.stop.value:
                onward.cancel_join_thread()
                return False
        else:
            return True


def _serve(index: int, job: Job, shared: Shared, given: Any, onward: Any) -> None:
    name, kind = _STAGES[index]
    stage = kind(kind.Options(), _context(index, job, shared))
    states: Mapping[str, Any] = {source: kind.State() for source in _names(job)}
    due = _Due(job)
    while (message := given.get()) is not None:
        item = _unpack(message)
        (output,), after = stage.process([item], states)
        states = {**states, **after}
        if onward is None:
            records.encode(output)
            count = shared.published.value
            shared.delays_s[count % KEPT_DELAYS] = due.delay_s(item)
            shared.published.value = count + 1
            continue
        if output is not None:  # None: what was said before stands, the bytes go on as they are
            record = records.with_said(item.record, name, records.encode(output), time.monotonic())
            message = _pack(item.source, item.position, record)
        onward.put(message)
    if onward is not None:
        _put(onward, None, shared)


class _Due:
    """When frames were due by the sources' phases, whatever their processes thought of it."""

    def __init__(self, job: Job) -> None:
        self._phases = dict(zip(_names(job), job.phases_s, strict=True))

    def delay_s(self, item: Item) -> float:
        return delay_s(time.monotonic(), item.record.pts or 0.0, self._phases[item.source])


def delay_s(mono: float, pts: float, phase_s: float) -> float:
    """How long after a frame was due `mono` is; sources start `phase_s` after a whole second.

    Right for delays between -0.5 and 0.5 s: which second a source started in need not be known.
    """
    return (mono - pts - phase_s + 0.5) % 1.0 - 0.5


def _context(index: int, job: Job, shared: Shared) -> Context:
    stores = dict(zip(_names(job), shared.frame_stores(), strict=True))

    def pixels(item: Item) -> AbstractContextManager[memoryview]:
        return stores[item.source].reading(item.record.number, item.position)

    before = _STAGES[index - 1][0] if index else "decode"
    return context_alone(pixels, time.time, Path(), before)


def _pack(source: str, position: Position, record: Record) -> tuple[str, int, int, bytes]:
    return source, position.epoch, position.seq, records.encode(record)


def _unpack(message: tuple[str, int, int, bytes]) -> Item:
    source, epoch, seq, data = message
    return Item(source, Position(epoch, seq), records.decode_record(data))
