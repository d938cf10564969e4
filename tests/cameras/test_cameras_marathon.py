"""300 reconnects: what a lost connection leaves behind is nothing."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.cameras.background import Background
from tests.support.cameras.faulty import FaultyLine
from tests.support.cameras.pictures import Clips
from tests.support.cameras.toolkit import ToolkitCamera
from tests.support.cameras.watched import WatchedRun, url

CAMERAS = 10
ROUNDS = 30
SETTLED = 10
QUICK = "[live]\nstall_s = 2.0\nretry_most_s = 0.1\n"


@dataclass(frozen=True)
class Held:
    """What a process holds: memory in MB, open files, threads."""

    rss_mb: float
    files: int
    threads: int


def held(pid: int) -> Held:
    fields = dict(
        line.split(":", 1)
        for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    )
    files = len(os.listdir(f"/proc/{pid}/fd"))
    return Held(int(fields["VmRSS"].split()[0]) / 1024, files, int(fields["Threads"]))


@pytest.mark.long
def test_reconnects_leave_nothing_behind(tmp_path: Path) -> None:
    with ExitStack() as close:
        background = Background()
        close.callback(background.close)
        clips = Clips(tmp_path / "clips")
        clip = clips.clip(seconds=20)
        kit = ToolkitCamera(background, clips.folder)
        close.callback(kit.close)
        lines = {f"cam{n}": FaultyLine(background) for n in range(CAMERAS)}
        for line in lines.values():
            close.callback(line.close)
            line.on(kit.port)
        path = kit.path(clip.name)
        places = {n: url(x.port, path) for n, x in lines.items()}
        run = WatchedRun(tmp_path / "user", places, QUICK, apart=True)
        close.callback(run.close)

        seen = [reconnect(run, lines, number) for number in range(ROUNDS)]

        settled, end = seen[SETTLED], seen[-1]
        print(f"\nafter {SETTLED * CAMERAS} and {ROUNDS * CAMERAS} reconnects: {settled}, {end}")
        # Each camera may have a connection on its way and one that is ending, not 20 of them.
        assert end.files <= settled.files + 2 * CAMERAS
        assert end.threads <= settled.threads + 2 * CAMERAS
        assert end.rss_mb <= settled.rss_mb + 8
        for name in lines:
            assert run.counters(name)["connects"] == ROUNDS + 1
            run.check_positions(name)
        assert run.finish() == 0


def reconnect(run: WatchedRun, lines: dict[str, FaultyLine], number: int) -> Held:
    """Cut every camera off and wait until it is back; gives what ingest holds then."""
    for name, line in lines.items():
        run.until_connects(name, number + 1)
        line.cut()
    for name in lines:
        run.until_connects(name, number + 2)
    run.check_accounts()
    return held(run.worker("ingest"))
