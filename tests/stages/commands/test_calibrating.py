"""Footage replayed: what each threshold asks, and when, by the stages' own code."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from framegate.pipeline.promise.calibration import Raise
from framegate.stages.audit.audits import PATH
from framegate.stages.commands.calibrate import AskTimes, tallied
from tests.support import footage

FRAMES = 6


def test_asking_always_asks_at_every_frame_and_never_is_free(tmp_path: Path) -> None:
    path = footage.write_scene(tmp_path / "day.mp4", footage.steady(FRAMES))
    told: list[tuple[int, int, int]] = []
    stages: list[tuple[str, dict[str, object]]] = [
        ("framegate.stages.window:Window", {"size": 3}),
        ("framegate.stages.detect:Detect", {"window": {"head": True}}),
        (
            "framegate.stages.escalate:Escalate",
            {"escalate": {"per_s": 1.0, "burst": 2.0, "all_per_s": 1.0}},
        ),
    ]
    found = tallied({"door": str(path)}, stages, 20, 0, lambda *now: told.append(now))
    assert (found.frames, found.draws) == (FRAMES, 20)
    assert 1 < found.distinct <= FRAMES
    assert [one.least for one in found.tallies] == list(PATH)
    assert (found.tallies[0].asked, found.tallies[-1].asked) == (FRAMES, 0)
    # Six frames of .04 s: the sixth comes after .2 s, four more than the burst.
    assert found.raises[0][0] == Raise("per_s", 1.0, 20.0)
    assert [one.key for one in found.raises[0]] == ["per_s", "all_per_s"]
    assert found.raises[-1] == ()
    assert told[-1][:2] == (FRAMES, FRAMES)


def test_times_are_kept_by_threshold_and_source() -> None:
    times = AskTimes()
    for source, now_s in (("a", 0.0), ("b", 0.0), ("a", 0.04)):
        times.note(0.1, source, now_s)
    assert [one.tolist() for one in times.of(0.1)] == [[0.0, 0.04], [0.0]]
    assert times.of(0.2) == []
    assert isinstance(times.of(0.1)[0], np.ndarray)
