"""One file through `framegate run`, with a promise or with no heavy model: its results."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from benchmarks.harness import configuration
from benchmarks.harness.engine_run import EngineRun, RunFailed, RunSample
from framegate import subscribe
from framegate.models.boxes import Boxes
from framegate.pipeline.contracts.results import PromiseNews, Result
from framegate.pipeline.promise.certificate import Certificate, read_certificate

SOURCE: Final = "hour"
ALPHA: Final = 0.01
CONFIDENCE: Final = 0.95
_WARM_UP: Final = 60  # frames
_LOOK_S: Final = 0.25
_TELL_S: Final = 15.0
_END_S: Final = 120.0


@dataclass(frozen=True, slots=True)
class Promised:
    """What is asked for: `[escalate] doubt`, `frames` of a period, and its `alpha`."""

    doubt: float
    frames: int
    alpha: float = ALPHA


@dataclass(frozen=True, slots=True, eq=False)
class Served:
    """What was published for each frame of a file.

    escalated  bool (F,): the heavy pass was asked before it was served, and answered
    degraded   frames for which it should have, and did not
    cpu_ms     CPU of all processes, milliseconds a frame, from the first frames to the last
    seconds    of the clock for all of it
    news       what became known of the promise, and with which frame; not with the source's end
    """

    shown: list[Boxes]
    escalated: npt.NDArray[np.bool_]
    degraded: int
    cpu_ms: float
    seconds: float
    news: tuple[tuple[int, PromiseNews], ...] = ()


def serve(
    clip: Path, n_frames: int, promised: Promised | None, truth: str | None = None
) -> tuple[Served, list[Certificate]]:
    """Run the engine over a file of so many frames.

    truth  policy of the heavy model that judges the results; None: none does

    RunFailed when it does not serve all frames, or promises agreement with another model.
    """
    began = time.monotonic()
    results: list[Result] = []
    news: list[tuple[int, PromiseNews]] = []
    with EngineRun(config_text(clip, promised), [SOURCE]) as run:
        run.wait_for(1)
        begun = first = last = run.sample()
        with subscribe(run.data, [SOURCE], "earliest", until_end=True) as published:
            for result in published:
                results.append(result)
                due = time.monotonic() > last.mono + _LOOK_S
                if due or len(results) == n_frames // 2:  # a short run is over before it is due
                    sample = run.sample()
                    first = sample if first.published < _WARM_UP else first
                    last = _told(last, sample, n_frames)
                    news += run.news(SOURCE, after=news[-1][0] if news else -1)
        news += run.news(SOURCE, after=news[-1][0] if news else -1)
        run.wait_for_end(_END_S)
        folder = run.data / "certificates"
        closed = sorted(folder.glob("*[0-9].json"))
        found = [read_certificate(path.read_bytes()) for path in closed]
        if len(results) != n_frames or any(result.outcome == "failed" for result in results):
            raise RunFailed(f"{len(results)} of {n_frames} frames: {run.last_words()}")
        if truth is not None and any(each.policy != truth for each in found):
            said = found[0].policy
            raise RunFailed(f"the certificates are about {said}, the truth is of {truth}")
    if last.published <= first.published:  # nothing was seen after the warm-up: with it, then
        first = begun
    if last.published <= first.published:
        raise RunFailed(f"{n_frames} frames are too few to measure their CPU")
    cpu_ms = 1e3 * last.usage.since(first.usage) / (last.published - first.published)
    escalated = np.array([result.escalation == "done" for result in results], np.bool_)
    degraded = sum(result.escalation == "degraded" for result in results)
    shown = [boxes_of(result) for result in results]
    seconds = time.monotonic() - began
    return Served(shown, escalated, degraded, cpu_ms, seconds, tuple(news)), found


def _told(before: RunSample, now: RunSample, n_frames: int) -> RunSample:
    """The newer sample while the run goes on: at its end processes are gone, and their CPU too."""
    if now.published <= before.published:
        return before
    if int(now.mono / _TELL_S) > int(before.mono / _TELL_S):
        print(f"served: {now.published}/{n_frames}", flush=True)
    return now


def config_text(clip: Path, promised: Promised | None) -> str:
    """The packaged pipeline.toml with the clip as its source, and a promise or no heavy model.

    All classes are reported: by default a run reports 12, and composed footage has others, too.
    Asks are not budgeted: what the promise takes is what is measured.
    """
    tables: dict[str, dict[str, str | float]] = {
        "stages.detect": {"classes": "all"},
        "escalate": {"place": "off"},
        "promise": {"measure": "off"},
        f"sources.{SOURCE}": {"url": str(clip), "pace": "fast"},
    }
    if promised is not None:
        asks = {"doubt": promised.doubt, "per_s": 1000.0, "burst": 1000.0}
        terms = {"alpha": promised.alpha, "confidence": CONFIDENCE, "frames": promised.frames}
        tables["escalate"] = {"place": "local", **asks}
        tables["promise"] = {"measure": "counts", **terms}
    return configuration.packaged(tables)


def boxes_of(result: Result) -> Boxes:
    """A result's objects, highest score first."""
    objects = sorted(result.objects, key=lambda one: -one.score)
    return Boxes(
        np.array([one.box for one in objects], np.float32).reshape(-1, 4),
        np.array([one.score for one in objects], np.float32),
        np.array([one.class_id for one in objects], np.int32),
    )
