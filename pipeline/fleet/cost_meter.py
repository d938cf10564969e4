"""Measure the CPU cores that each camera of a slot needs: arithmetic over readings of its workers.

The CPU time of a worker is divided among its sources in proportion to the decoded pixels, because
one process serves several sources. A camera whose frames are dropped needs more than it gets: its
share is multiplied by decoded ÷ published frames.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

SMOOTH_S: Final = 300.0  # time constant of the average
SETTLED_S: Final = 120.0  # a camera that was measured for less time has no cost
MOST_DROPPED: Final = 4.0  # highest ratio of decoded to published frames that counts
MOST_CORES: Final = 1024.0


class FrameCounts(NamedTuple):
    """The frames of a source so far, from its counters."""

    decoded: int
    published: int


@dataclass(frozen=True, slots=True)
class WorkerUse:
    """A worker process.

    cpu_s        CPU seconds since its start
    frame_bytes  its sources, with the bytes of a frame of each
    """

    pid: int
    cpu_s: float
    frame_bytes: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Reading:
    """The workers of a slot and the frames of its sources at one time.

    mono_s   monotonic time
    cameras  those of the sources that have no end
    """

    mono_s: float
    workers: Sequence[WorkerUse]
    frames: Mapping[str, FrameCounts]
    cameras: frozenset[str]


@dataclass(slots=True)
class CostMeter:
    """The smoothed cores of each camera of a slot, from successive readings."""

    _last: Reading | None = None
    _costs: dict[str, float] = field(default_factory=dict)
    _measured_s: dict[str, float] = field(default_factory=dict)

    def add(self, reading: Reading) -> None:
        """Take a reading. A camera that it lacks is forgotten."""
        before, self._last = self._last, reading
        for name in self._costs.keys() - reading.cameras:
            del self._costs[name], self._measured_s[name]
        if before is None or reading.mono_s <= before.mono_s:
            return
        seconds = reading.mono_s - before.mono_s
        share = 1.0 - math.exp(-seconds / SMOOTH_S)
        for name, cores in needed_cores(before, reading).items():
            known_s = self._measured_s.get(name, 0.0)
            weight = max(share, seconds / (known_s + seconds))  # a plain mean at the beginning
            old = self._costs.get(name, 0.0)
            self._costs[name] = old + weight * (cores - old)
            self._measured_s[name] = known_s + seconds

    def costs(self) -> dict[str, float]:
        """Return the cores of each camera that was measured for SETTLED_S."""
        return {
            name: round(cores, 3)
            for name, cores in self._costs.items()
            if self._measured_s[name] >= SETTLED_S
        }


def needed_cores(before: Reading, after: Reading) -> dict[str, float]:
    """Return the cores that each camera needed between two readings.

    A camera is missing if it published nothing, or if its worker was restarted.
    """
    seconds = after.mono_s - before.mono_s
    old = {worker.pid: worker for worker in before.workers}
    needed: dict[str, float] = {}
    for worker in after.workers:
        if worker.pid in old:
            used = max(0.0, worker.cpu_s - old[worker.pid].cpu_s) / seconds
            for name, share in _shares(worker, before, after).items():
                needed[name] = needed.get(name, 0.0) + used * share
    found = {}
    for name in needed.keys() & after.cameras & before.cameras:
        grown = _grown(name, before, after)
        if grown.published > 0:
            dropped = min(MOST_DROPPED, max(1.0, grown.decoded / grown.published))
            found[name] = min(MOST_CORES, needed[name] * dropped)
    return found


def _shares(worker: WorkerUse, before: Reading, after: Reading) -> dict[str, float]:
    """Return the share of each source in the work of its worker; they add up to 1."""
    pixels = {
        name: size * max(0, _grown(name, before, after).decoded)
        for name, size in worker.frame_bytes.items()
    }
    whole = sum(pixels.values())
    if not whole:
        return {}
    return {name: part / whole for name, part in pixels.items()}


def _grown(name: str, before: Reading, after: Reading) -> FrameCounts:
    """Return the frames of a source between two readings; 0 if one lacks it."""
    old, new = before.frames.get(name), after.frames.get(name)
    if old is None or new is None:
        return FrameCounts(0, 0)
    return FrameCounts(new.decoded - old.decoded, new.published - old.published)
