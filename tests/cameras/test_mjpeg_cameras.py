"""Cameras that send JPEG pictures over HTTP: no picture that came is lost, whatever the rate."""

from __future__ import annotations

import itertools
import re
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.cameras.scripted import ScriptedCamera, paced
from tests.support.cameras.watched import WatchedRun
from tests.support.commands import framegate, user_folder

RATES = (1, 5, 10, 15, 31)
PATIENT = "[live]\nstall_s = 60.0\n"


@pytest.mark.whole_run
@pytest.mark.parametrize("seconds", [5, pytest.param(30, marks=pytest.mark.long)])
def test_every_picture_that_came_is_decoded(tmp_path: Path, seconds: int) -> None:
    """Five cameras side by side, each of which sends so many and then holds the line."""
    sent = {f"at_{fps}": fps * seconds for fps in RATES}
    with ExitStack() as close:
        sources = {}
        for fps in RATES:
            camera = ScriptedCamera(lambda fps=fps: paced(fps * seconds, fps))
            sources[f"at_{fps}"] = close.enter_context(camera).url
        run = WatchedRun(tmp_path / "user", sources, PATIENT)
        close.callback(run.close)
        for source, pictures in sent.items():
            run.until(
                f"{pictures} frames of {source}",
                lambda s=source, n=pictures: run.counters(s).get("decoded", 0) >= n,
            )
        run.until("none is in flight", lambda: not any(run.accounts(s).in_flight for s in sent))
        for source in sent:
            run.check_positions(source)
        counters = {source: run.counters(source) for source in sent}
        stamps = {source: [r["pts"] for r in run.results(source)] for source in sent}
        assert run.finish() == 0
    assert {source: c["decoded"] for source, c in counters.items()} == sent
    assert {source: c.get("late", 0) for source, c in counters.items()} == dict.fromkeys(sent, 0)
    assert {source: c["connects"] for source, c in counters.items()} == dict.fromkeys(sent, 1)
    for of_source in stamps.values():  # when the pictures came, not 25 a second
        assert of_source == sorted(of_source)
        assert {round(b - a, 3) for a, b in itertools.pairwise(of_source)} != {0.04}


def test_check_says_the_rate_that_it_measured(tmp_path: Path) -> None:
    """MJPEG names no rate, and FFmpeg would say 25."""
    with ScriptedCamera(lambda: paced(50, 10)) as camera:
        told = framegate(user_folder(tmp_path / "user"), "check", f"cam={camera.url}")
    [said] = [line for line in told.out.splitlines() if "cam: mjpeg 64x48" in line]
    rate = re.search(r" ([0-9.]+) frames/s", said)
    assert rate is not None, said
    assert float(rate[1]) != 25.0
