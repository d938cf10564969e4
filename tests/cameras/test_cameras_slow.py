"""Law 5 on a camera: who is slower than it gets the newest frame, and the others are counted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.cameras.background import Background
from tests.support.cameras.faulty import FaultyLine
from tests.support.cameras.pictures import FPS, Clips
from tests.support.cameras.toolkit import ToolkitCamera
from tests.support.cameras.watched import LIVE, WatchedRun, url

pytestmark = pytest.mark.whole_run

CREDIT = 4
HELD = 2 * FPS
ON_THE_MAIN_PATH = 'use = "user_stages:Waits"\ngate = "{gate}"\nat = 0\n'
BESIDE_IT = """
[stages.beside]
use = "user_stages:Gated"
gate = "{gate}"
input = "cache"
on_lag = "wait"
"""


@pytest.fixture
def line(tmp_path: Path) -> Iterator[tuple[FaultyLine, str]]:
    """A line to a camera, and the camera's path."""
    with ExitStack() as close:
        background = Background()
        close.callback(background.close)
        clips = Clips(tmp_path / "clips")
        clip = clips.clip(seconds=20)
        kit = ToolkitCamera(background, clips.folder)
        close.callback(kit.close)
        found = FaultyLine(background)
        close.callback(found.close)
        found.on(kit.port)
        yield found, kit.path(clip.name)


@pytest.mark.parametrize(
    "where", ["on_the_main_path", pytest.param("beside_it", marks=pytest.mark.long)]
)
def test_the_newest_frame_wins(line: tuple[FaultyLine, str], where: str, tmp_path: Path) -> None:
    camera, path = line
    gate = tmp_path / "gate"
    main = ON_THE_MAIN_PATH.format(gate=gate) if where == "on_the_main_path" else ""
    more = LIVE + (BESIDE_IT.format(gate=gate) if where == "beside_it" else "")
    cam = {"cam": url(camera.port, path)}
    run = WatchedRun(tmp_path / "user", cam, more, main, apart=True)
    try:
        run.until("credit is used up", lambda: let_in(run) == CREDIT)
        before = camera.pictures
        run.until("the camera is drained", lambda: camera.pictures >= before + HELD)
        run.check_accounts()
        assert let_in(run) == CREDIT, "more was let in than there is credit for"

        passed = camera.pictures
        gate.touch()
        results = run.until_published("cam", CREDIT + FPS)
        seqs = [result["seq"] for result in results]
        replaced = seqs[CREDIT] - seqs[CREDIT - 1] - 1
        # Only what was in the decoder's hand is old, and that was the newest: the parser keeps one
        # picture back, and some may have been on their way.
        assert passed - FPS <= seqs[CREDIT] <= camera.pictures
        assert replaced >= HELD - FPS
        assert results[CREDIT]["pts"] == pytest.approx(seqs[CREDIT] / FPS, abs=2 / FPS)
        run.check_positions("cam")
        assert run.counters("cam")["dropped:replaced"] >= replaced
        assert run.counters("cam")["connects"] == 1
        assert run.finish() == 0
    finally:
        gate.touch()
        run.close()


def let_in(run: WatchedRun) -> int:
    """Frames that the decoder has handed on."""
    found = run.accounts("cam")
    return found.decoded - found.dropped
