"""A clip at every rung of a ladder, and what the policy makes of it; no stage is needed."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.agreement import Tracked
from benchmarks.clips import rate
from benchmarks.gate_clips import LEAST_FRAMES, GateClip, find_clips
from benchmarks.gate_run import answering, frames
from benchmarks.heavy_truth import Answers
from benchmarks.rivals import carried, looks
from models import coco, detector, ladder, policy
from models.boxes import Boxes
from models.calm import CALM
from models.detector import Detector
from models.ladder import LadderSettings
from models.network import Precision
from models.picture import Picture
from models.policy import Policy
from pipeline.source import Request
from stages.belief import BeliefSettings
from stages.decode import FileSource

VIDEOS: Final = (".avi", ".mkv", ".mp4", ".mov", ".webm")
_TELL_S: Final = 15.0
_TIMED: Final = 25


@dataclass(slots=True)
class Seen:
    """A clip's frames; every `stride`-th was looked at by the heavy pass.

    found    boxes of each rung in each frame, candidates too
    heavy    boxes of the heavy pass in each frame that is judged
    ms       milliseconds of each rung's network alone, CPU, the median; look_ms: of a whole look,
             with what prepares the picture and reads the answer
    """

    clip: GateClip
    stride: int
    size: tuple[int, int] = (0, 0)
    stamps: list[float] = field(default_factory=list)
    found: list[list[Boxes]] = field(default_factory=list)
    heavy: list[Boxes] = field(default_factory=list)
    ms: list[float] = field(default_factory=list)
    look_ms: list[float] = field(default_factory=list)

    def judged(self, shown: Sequence[Boxes]) -> list[Boxes]:
        """Those of the frames that the heavy pass looked at."""
        return list(shown[:: self.stride])


@dataclass(frozen=True, slots=True)
class Routed:
    """What the policy did on a clip.

    rungs   index of the rung that answered each frame
    probes  frames with a look of the largest beside it
    """

    rungs: tuple[int, ...]
    probes: int

    def compute(self, ms: Sequence[float]) -> float:
        """Of all looks, probes too, by that of the largest rung on every frame; ms: each rung's."""
        spent = sum(ms[rung] for rung in self.rungs) + self.probes * ms[-1]
        return spent / (len(self.rungs) * ms[-1])


def detectors(sides: Sequence[int], precision: Precision) -> list[Detector]:
    """NanoDet at each size, with the calm rule's candidates, on one thread."""
    choices = policy.load("light").with_min_score(CALM.candidate)
    return [detector.build(_sized(choices, side), precision, 1, _ALL) for side in sides]


def _sized(choices: Policy, side: int) -> Policy:
    return replace(choices, members=(f"nanodet-{side}",))


_ALL: Final = coco.class_ids(None)


def clips_of(data: Path, names: Sequence[str], most: int, folder: Path) -> list[GateClip]:
    """The clips of the gate, and every other video of the folder that is long enough."""
    found = {clip.path: clip for clip in find_clips(data, names, most, folder)}
    known = {clip.name for clip in found.values()}
    for path in sorted((data / "clips").rglob("*")):
        wanted = not names or path.stem in names
        if path.suffix in VIDEOS and path.stem not in known and wanted:
            length = _count(path, most)
            if length >= LEAST_FRAMES:
                found[path] = GateClip(path.stem, "busy", path, length, rate(path) or 25.0)
    return list(found.values())


def _count(path: Path, most: int) -> int:
    source = FileSource(Request(str(path)))
    try:
        return sum(1 for _ in zip(range(most), source.frames(), strict=False))
    finally:
        source.close()


def see(
    clip: GateClip, rungs: Sequence[Detector], answers: Answers, most: int, n_judged: int
) -> Seen:
    """Every rung on every frame, and the heavy pass on about `n_judged`; prints how far it is."""
    n_frames = min(clip.frames, most)
    seen = Seen(clip, max(1, round(n_frames / n_judged)))
    spent: list[list[float]] = [[] for _ in rungs]
    told = began = time.monotonic()
    for number, (picture, pts, _) in enumerate(frames(replace(clip, frames=n_frames))):
        if not number:
            seen.size = picture.width, picture.height
            for using in rungs:
                using.warm_up(*seen.size)
            seen.ms = network_ms(rungs, picture)
        found = []
        for using, times in zip(rungs, spent, strict=True):
            before = time.process_time()
            found.append(using.detect([picture])[0])
            times.append(1e3 * (time.process_time() - before))
        seen.found.append(found)
        seen.stamps.append(pts)
        if number % seen.stride == 0:
            seen.heavy.append(answers.of(picture).boxes)
        if (now := time.monotonic()) > told + _TELL_S:
            told = now
            print(f"  {clip.name}: {number + 1}/{n_frames}, {now - began:.0f} s", flush=True)
    seen.look_ms = [statistics.median(times) for times in spent]
    return seen


def network_ms(rungs: Sequence[Detector], picture: Picture) -> list[float]:
    """Milliseconds of CPU of each rung's network on a picture; in turn, the median of some."""
    ready = [(using.members[0], using.members[0].prepare(picture)) for using in rungs]
    spent: list[list[float]] = [[] for _ in rungs]
    for _ in range(_TIMED):
        for times, (member, prepared) in zip(spent, ready, strict=True):
            before = time.process_time()
            pending = member.start(prepared)
            pending.wait()
            times.append(1e3 * (time.process_time() - before))
            pending.discard()
    return [statistics.median(times) for times in spent]


def route(seen: Seen, settings: LadderSettings) -> Routed:
    """The clip through the policy, look by look."""
    state, top = ladder.at_start(settings), settings.top
    used, probes = [], 0
    for found in seen.found:
        choice = ladder.choose(state)
        probes += choice.probe and choice.rung < top
        largest = found[top] if choice.probe else None
        state = ladder.after(state, choice, found[choice.rung], largest, seen.size, settings)
        used.append(choice.rung)
    return Routed(tuple(used), probes)


def calmed(boxes: Sequence[Boxes], stamps: Sequence[float], given: BeliefSettings) -> list[Boxes]:
    """What is shown of looks at every frame, by tracks and calm rule."""
    every = np.ones(len(boxes), np.bool_)
    return _boxes(carried(boxes, stamps, every, answering(given)))


def kept_between(seen: Seen, share: float, given: BeliefSettings) -> list[Boxes]:
    """What is shown where the largest rung looks at a share of frames and boxes stay between."""
    largest = [found[-1] for found in seen.found]
    chosen = looks(len(largest), share, 0.5)
    return _boxes(carried(largest, seen.stamps, chosen, answering(given)))


def mixture(seen: Seen, costs: Sequence[float], cost: float) -> Iterator[Boxes]:
    """Boxes where the two rungs around a mean cost take turns, as evenly as can be."""
    upper = min((n for n, each in enumerate(costs) if each >= cost), default=len(costs) - 1)
    lower = max(upper - 1, 0)
    span = costs[upper] - costs[lower]
    chosen = looks(len(seen.found), (cost - costs[lower]) / span if span else 1.0, 0.5)
    for found, above in zip(seen.found, chosen, strict=True):
        yield found[upper if above else lower]


def _boxes(shown: Sequence[Tracked]) -> list[Boxes]:
    return [frame.boxes for frame in shown]
