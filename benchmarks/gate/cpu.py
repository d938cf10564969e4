"""Measure the CPU time of the whole pipeline per second of video, with the gate on and off.

Two runs of the engine, one of each, side by side at the clip's own rate: both meet the same state
of the machine at every moment.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final, Literal

from benchmarks.harness import configuration
from benchmarks.harness.engine_run import START_S, EngineRun, RunFailed, RunSample
from benchmarks.harness.gate_clips import WARM_UP, GateClip

Switch = Literal["on", "off"]

_SOURCE: Final = "clip"
_LOOK_S: Final = 0.1
_END_S: Final = 0.5  # so long before its end a run is looked at last: then its processes go


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU-seconds of all processes for a second of video, the store's included.

    frames  over which that was measured
    """

    on: float
    off: float
    frames: int

    @property
    def ratio(self) -> float:
        """With the gate by without."""
        return self.on / self.off


def config_text(clip: GateClip, switch: Switch) -> str:
    """The packaged pipeline.toml with the clip as its source; its gate, or none.

    Without the exact cache: one of the clips is played over.
    """
    source = {f"sources.{_SOURCE}": {"url": str(clip.path), "pace": "realtime"}}
    gate = {"gate": {"mode": "off"}} if switch == "off" else {}
    return configuration.packaged({**configuration.NO_EXACT_CACHE, **source, **gate})


def cost(clip: GateClip, seconds: float, first: Switch) -> Cost:
    """Both runs' CPU after the first frames. RunFailed when one of them does not get on.

    seconds  of video that are measured; fewer where the clip ends
    first    which is started first
    """
    order: tuple[Switch, Switch] = ("on", "off") if first == "on" else ("off", "on")
    last = clip.frames - int(_END_S * clip.fps)
    end = min(last, WARM_UP + int(seconds * clip.fps))
    with ExitStack() as stack:
        runs = {
            switch: stack.enter_context(EngineRun(config_text(clip, switch), [_SOURCE]))
            for switch in order
        }
        before = _when(runs, WARM_UP, START_S + WARM_UP / clip.fps)
        after = _when(runs, end, START_S + end / clip.fps)
    spent = {
        switch: after[switch].usage.since(before[switch].usage)
        * clip.fps
        / (after[switch].published - before[switch].published)
        for switch in runs
    }
    return Cost(spent["on"], spent["off"], end - WARM_UP)


def _when(
    runs: Mapping[Switch, EngineRun], frames: int, timeout_s: float
) -> dict[Switch, RunSample]:
    """Each run as it was when it had published so many frames."""
    found: dict[Switch, RunSample] = {}
    deadline = time.monotonic() + timeout_s
    while len(found) < len(runs):
        for switch, run in runs.items():
            if switch not in found and run.published() >= frames:
                found[switch] = run.sample()
        if time.monotonic() > deadline:
            slow = next(run for switch, run in runs.items() if switch not in found)
            raise RunFailed(f"fewer than {frames} frames: {slow.last_words()}")
        time.sleep(_LOOK_S)
    return found
