"""What is off costs nothing: no process, no stage, no key, no hop more."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import redis

from framegate.pipeline.recording.index_tables import FOLDER
from tests.support import footage
from tests.support.runs import Run, children, wait_until

# All tables are there, and name nothing that is to be done.
OFF = """
[record]
sources = false
[sound]
sources = false
[events]
[privacy]
blur_faces = false
"""
DETECT = '[stages.detect]\ndetector = "nanodet-plus-128"\n'
# `events` is there without rules, so that the first one needs no restart.
STAGES = {"decode", "detect", "escalate", "windows", "cache", "visits", "events"}
FRAMES = 60


def commands(run: Run) -> dict[str, int]:
    """How often each command was called, by the store's own count."""
    with redis.Redis.from_url(run.url, protocol=2) as store:
        stats: Any = store.info("commandstats")
    return {name.removeprefix("cmdstat_"): int(one["calls"]) for name, one in stats.items()}


def mapped_libraries(run: Run) -> set[str]:
    """The packages whose shared libraries the supervisor has mapped."""
    maps = Path(f"/proc/{run.process.pid}/maps").read_text(encoding="utf-8")
    return set(re.findall(r"site-packages/([a-z0-9]+)", maps))


@pytest.mark.whole_run
@pytest.mark.parametrize("config", [DETECT, DETECT + OFF], ids=["none", "off"])
def test_only_what_is_on_is_there(tmp_path: Path, config: str) -> None:
    folder = tmp_path / "user"
    folder.mkdir()
    footage.write_scene(folder / "gate.mp4", footage.steady(FRAMES, fps=10))
    (folder / "pipeline.toml").write_text(config, encoding="utf-8")
    run = Run(folder / "data", "gate.mp4", "--pace", "realtime", "--http", "off", cwd=folder)
    try:
        at = wait_until("it is served", lambda: run.positions("gate", ["cache"])["cache"].seq >= 9)
        before, began = commands(run), run.positions("gate", ["cache"])["cache"].seq
        assert at
        there = children(run.process.pid)
        libraries = mapped_libraries(run)
        wait_until(
            "more is served", lambda: run.positions("gate", ["cache"])["cache"].seq >= began + 30
        )
        after, now = commands(run), run.positions("gate", ["cache"])["cache"].seq
        with redis.Redis.from_url(run.url) as store:
            keys = {key.decode() for key in store.scan_iter()}
        assert run.wait() == 0, run.log.read_text(encoding="utf-8")
    finally:
        run.kill()
    # The supervisor lives as long as the run, and computes nothing: it does without 35 MB.
    assert "msgspec" in libraries
    assert not libraries & {"numpy", "cv2", "av", "openvino", "scipy"}
    names = sorted(" ".join(words[2:4]) for words in there.values() if "-m" in words)
    servers = [words for words in there.values() if "valkey-server" in words[0]]
    assert len(servers) == 1
    assert all(name.startswith("framegate.pipeline.run.worker_main ") for name in names), names
    workers = {name.rpartition(" ")[2] for name in names}
    assert not workers & {"sound", "sinks"}, workers
    stages = {key.rpartition(":")[2] for key in keys if ":at:" in key}
    assert stages == STAGES, keys
    assert {key.rpartition(":")[2] for key in keys if ":out:" in key} <= STAGES
    assert not [key for key in keys if "sink" in key or "sound" in key], keys
    assert not (folder / "data" / FOLDER).exists()
    # A hop is one call of the function library; those that are fused leave in one write.
    hops = after["fcall"] - before["fcall"]
    assert hops <= len(STAGES) * (now - began + 2), (hops, now - began)
