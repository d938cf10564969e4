"""`[sound]` in a run: told beside the pictures, once, whatever is killed; nothing else changes."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import redis

from framegate.pipeline.contracts import keys
from framegate.pipeline.store.admin import StoreAdmin
from framegate.pipeline.store.embedded import EmbeddedStore
from tests.support import footage
from tests.support.asked import workers
from tests.support.commands import Command, framegate
from tests.support.footage import Track
from tests.support.runs import published_in, said, wait_until

pytestmark = pytest.mark.whole_run

DONE = 0
DETECT = '[stages.detect]\ndetector = "nanodet-plus-128"\n'
HEAR = DETECT + "[workers]\nshards = 0\n[sound]\nsources = true\nleast_score = 0.05\n"
SECONDS = 6.0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "user"
    made.mkdir()
    track = Track("aac", 44100, (3100.0, 3100.0), begins=(0.0, 3.5), seconds=2.0)
    footage.write_sounding(made / "gate.mp4", track, pts_s=footage.steady(round(25 * SECONDS)))
    footage.write_scene(made / "deaf.mp4", footage.steady(50))
    return made


def told(folder: Path, data: str) -> list[dict[str, Any]]:
    """What the stage said, frame by frame, without the time at which that was."""
    ended = framegate(folder, "results", "-d", data, "--stage", "sound", "--json")
    assert ended.code == DONE, ended.err
    lines = [json.loads(line) for line in ended.out.splitlines()]
    return [{k: v for k, v in line.items() if not k.startswith("captured")} for line in lines]


def sound_counters(data: Path, source: str) -> dict[str, int]:
    embedded = EmbeddedStore(data / "store", "everysec")
    embedded.start()
    try:
        store = StoreAdmin(embedded.url)
        found = store.counters(source)
        store.close()
    finally:
        embedded.stop()
    return {name: n for name, n in found.items() if name.startswith("sound")}


def test_sound_is_told_with_its_frames_and_the_results_stay_as_they_are(folder: Path) -> None:
    results = []
    for name, config in (("off", DETECT), ("on", HEAR)):
        (folder / "pipeline.toml").write_text(config, encoding="utf-8")
        ended = framegate(folder, "run", "gate.mp4", "deaf.mp4", "-d", name)
        assert ended.code == DONE, ended.err
        served = published_in(folder / name, ["gate", "deaf"])
        results.append({source: said(served[source].results) for source in served})
    assert results[0] == results[1]
    lines = told(folder, "on")
    assert {line["source"] for line in lines} == {"gate"}
    windows = [(line["pts"], window) for line in lines for window in line["output"]["windows"]]
    assert [window["block"] for _, window in windows] == list(range(len(windows)))
    outcomes = Counter(f"sound:{window['outcome']}" for _, window in windows)
    assert sound_counters(folder / "on", "gate") == {"sound_blocks": len(windows), **outcomes}
    assert sound_counters(folder / "on", "deaf") == {}
    assert outcomes.keys() == {"sound:heard", "sound:unchanged"}
    frame_s = 0.04
    for pts, window in windows[:-1]:
        assert pts - frame_s < window["ends_s"] <= pts + frame_s
    beeps = [w["begins_s"] for _, w in windows if w["labels"] and w["labels"][0]["score"] > 0.1]
    assert any(begins < 1.5 for begins in beeps)
    assert any(begins > 3.0 for begins in beeps)


@pytest.mark.long  # test_kills_told.py kills each beside sinks, rules and a recording
def test_whoever_is_killed_every_window_is_told_once_and_as_it_was(folder: Path) -> None:
    (folder / "pipeline.toml").write_text(HEAR, encoding="utf-8")
    ended = framegate(folder, "run", "gate.mp4", "-d", "whole")
    assert ended.code == DONE, ended.err
    with Command(folder, "run", "gate.mp4", "-d", "killed", "--pace", "realtime") as run:
        wait_until("they work", lambda: {"sound", "ingest"} <= workers(run.process.pid).keys())
        data = folder / "killed"
        for victim, n in (("sound", 2), ("ingest", 4), ("sound", 6)):
            wait_until("it hears", lambda n=n: len(windows_so_far(data)) >= n)
            os.kill(workers(run.process.pid)[victim], signal.SIGKILL)
        ended = run.wait()
    assert ended.code == DONE, ended.err
    assert told(folder, "killed") == told(folder, "whole")
    assert sound_counters(data, "gate") == sound_counters(folder / "whole", "gate")


def windows_so_far(data: Path) -> list[Any]:
    client: Any = redis.Redis.from_url(EmbeddedStore(data / "store", "everysec").url)
    try:
        found: list[Any] = client.xrange(keys.out("gate", "sound"))
    finally:
        client.close()
    return found


def test_a_label_that_there_is_not_is_refused_before_anything_begins(folder: Path) -> None:
    (folder / "pipeline.toml").write_text(
        '[sound]\nsources = true\nlabels = ["Speach"]\n', encoding="utf-8"
    )
    ended = framegate(folder, "run", "gate.mp4")
    assert ended.code == 2
    assert "'Speach': there is no such label; did you mean Speech?" in ended.err
