"""Footage replayed: what each threshold asks, and when, by the stages' own code."""

from __future__ import annotations

import re
import signal
import sys
from pathlib import Path

import numpy as np
import pytest

from framegate.pipeline.promise.calibration import Raise
from framegate.stages.audit.open_audits import PATH
from framegate.stages.learning.doubt_replay import BLOCK, AskTimes, chosen, tallied
from tests.support import footage
from tests.support.commands import Command
from tests.support.own_models import own_cache

FRAMES = 6
STAGES: list[tuple[str, dict[str, object]]] = [
    ("framegate.stages.detect:Detect", {}),
    (
        "framegate.stages.escalate:Escalate",
        {"escalate": {"per_s": 1.0, "burst": 2.0, "all_per_s": 1.0}},
    ),
]


# The command after it, which tells how far it is ten times a second.
TELLING_SOON = """
import sys
from framegate.cli.console import terminal
from framegate.cli.main import main
from framegate.pipeline.system.process import leave

terminal.LINES_S = 0.1
sys.argv[1:] = sys.argv[sys.argv.index("framegate.cli") + 1 :]
leave(main())
"""
TELLING = (sys.executable, "-c", TELLING_SOON)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers of the heavy pass are kept here."""
    own_cache(tmp_path / "cache", monkeypatch)


@pytest.mark.whole_run
def test_asking_always_asks_at_every_frame_and_never_is_free(tmp_path: Path) -> None:
    path = footage.write_scene(tmp_path / "day.mp4", footage.steady(FRAMES))
    told: list[tuple[str, int, int | None, str]] = []

    def tell(what: str, done: int = 0, total: int | None = None, more: str = "") -> None:
        told.append((what, done, total, more))

    found = tallied({"door": str(path)}, STAGES, 20, 0, tell)
    assert (found.frames, found.draws, found.left) == (FRAMES, 20, 0)
    assert 1 < found.distinct <= FRAMES
    assert [one.least for one in found.tallies] == list(PATH)
    assert (found.tallies[0].asked, found.tallies[-1].asked) == (FRAMES, 0)
    # Six frames of .04 s: the sixth comes after .2 s, four more than the burst.
    assert found.raises[0][0] == Raise("per_s", 1.0, 20.0)
    assert [one.key for one in found.raises[0]] == ["per_s", "all_per_s"]
    assert found.raises[-1] == ()
    assert told[0] == ("reading files", 0, 1, "day.mp4")
    assert told[-1] == ("frames", FRAMES, FRAMES, f"{FRAMES} heavy passes")
    assert tallied({"door": str(path)}, STAGES, 20, 0, tell) == found
    assert told[-1] == ("frames", FRAMES, FRAMES, "0 heavy passes")  # all were known


def test_no_more_frames_than_asked_for_and_more_go_on_with_the_same() -> None:
    for most in (0, 1, BLOCK, 3 * BLOCK + 7, 990):
        taken = chosen(1000, most, seed=3)
        assert taken.sum() == most
        assert (chosen(1000, most + 20, seed=3) >= taken).all()
        begins = np.flatnonzero(np.diff(taken.astype(int), prepend=0) == 1)
        assert (begins % BLOCK == 0).all()
    assert chosen(30, 1000, seed=0).all()
    assert (chosen(1000, 100, seed=0) != chosen(1000, 100, seed=1)).any()


@pytest.mark.whole_run
def test_ctrl_c_judges_by_what_was_done_and_the_same_command_goes_on(tmp_path: Path) -> None:
    many = 100
    footage.write_scene(tmp_path / "day.mp4", footage.steady(many))
    words = ("calibrate", "day.mp4", "--alpha", "0.4", "--confidence", "0.8", "--frames", str(many))
    with Command(tmp_path, *words, before=TELLING) as command:
        command.says(" heavy passes, about ")
        command.process.send_signal(signal.SIGINT)
        ended = command.wait()
    assert ended.code == 0, ended.err
    assert "\r" not in ended.err
    assert "frames before the end; the same command continues from here" in ended.out
    done = many - int(ended.out.split("stopped, ")[1].split()[0])
    assert 0 < done < many
    with Command(tmp_path, *words, before=TELLING) as command:
        ended = command.wait()
    assert ended.code == 0, ended.err
    assert "frames before the end" not in ended.out
    assert "40.00% at 80.0% confidence" in ended.out
    # Those that were done were answered before. A command that is soon ready does not count.
    for frames, passes in re.findall(rf"frames: (\d+) of {many}, (\d+) heavy", ended.err):
        assert int(passes) == 0 or int(frames) - int(passes) >= done


def test_times_are_kept_by_threshold_and_source() -> None:
    times = AskTimes()
    for source, now_s in (("a", 0.0), ("b", 0.0), ("a", 0.04)):
        times.note(0.1, source, now_s)
    assert [one.tolist() for one in times.of(0.1)] == [[0.0, 0.04], [0.0]]
    assert times.of(0.2) == []
    assert isinstance(times.of(0.1)[0], np.ndarray)
