"""Shards: workers that host all of the main path, each for its share of the sources.

A death concerns its own sources only, and what is published is what one chain of workers publishes.
tests/runs/test_kills.py kills shards with all that the shipped stages remember.
"""

from __future__ import annotations

import json
import os
import signal
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.support import footage
from tests.support.asked import Asked, frames, kill, service, workers
from tests.support.commands import Command, Reader, framegate, user_folder
from tests.support.own_servers import free_port
from tests.support.runs import DEADLINE_S, wait_until
from tests.support.servers import server

pytestmark = pytest.mark.whole_run

DONE, SOURCE_FAILED = 0, 1
FRAMES, LONG, SHORT = 250, 2000, 50
HUNG_S = 4
STAGES = ("decode", "detect", "escalate", "cache")
NAMES = ("a", "b", "c", "d")

TABLES = """
[workers]
shards = {shards}
fill = 1
hung_s = {hung_s}
[stages.detect]
use = "user_stages:Crowd"
"""


def user(path: Path, shards: int) -> Path:
    """A user's folder with a configuration of a few lines."""
    folder = user_folder(path)
    (folder / "pipeline.toml").write_text(
        TABLES.format(shards=shards, hung_s=HUNG_S), encoding="utf-8"
    )
    return folder


def tokens(reader: Reader, *sources: str) -> list[bytes]:
    """Fencing tokens of all stages of these sources: another worker has others."""
    return [reader.client.hget(f"fg:{{{s}}}:at:{stage}", "t") for s in sources for stage in STAGES]


def told(reader: Reader, source: str) -> list[Any]:
    """What must not depend on who served it, and on kills."""
    results = reader.whole(source, FRAMES)
    return [(r["seq"], r["pts"], r["outcome"], r.get("objects")) for r in results]


def published(folder: Path) -> dict[str, list[Any]]:
    """Of a run that has ended: each frame once, and accounts that close."""
    with server(folder / "data" / "store") as store:
        reader = Reader(store.url)
        found = {name: told(reader, name) for name in NAMES}
        reader.close()
    return found


def test_a_death_concerns_its_own_sources_only(tmp_path: Path) -> None:
    one, two = user(tmp_path / "one", 0), user(tmp_path / "two", 2)
    for name in NAMES:
        footage.write_scene(tmp_path / f"{name}.mp4", footage.steady(FRAMES))
    clips = [f"{name}={tmp_path / f'{name}.mp4'}" for name in NAMES]
    undisturbed = framegate(one, "run", *clips, "-d", "data")
    assert undisturbed.code == DONE, undisturbed.err
    asked = Asked(two)
    with Command(two, "run", *clips, "-d", "data", "--pace", "realtime") as run:
        for name in NAMES:
            asked.until(name, 5)
        theirs, pids = tokens(asked.store, "b", "d"), workers(run.process.pid)
        assert pids.keys() == {"shard-1", "shard-2"}
        for _ in range(3):
            before = set(tokens(asked.store, "a", "c"))
            kill(run, "shard-1")
            wait_until(
                "another serves them",
                lambda before=before: before.isdisjoint(tokens(asked.store, "a", "c")),
            )
            for name in ("a", "c"):
                asked.until(name, len(asked.seqs(name)) + 5)
        assert workers(run.process.pid)["shard-2"] == pids["shard-2"]
        assert tokens(asked.store, "b", "d") == theirs
        ended = run.wait()
    assert ended.code == DONE, ended.err
    assert published(two) == published(one)


UNSTORABLE = """
from user_stages import Crowd


class Odd(Crowd):
    def each(self, item, state):
        said, state = super().each(item, state)
        return said, object() if item.source == "b" and item.record.number == 20 else state
"""


def test_a_shard_that_cannot_live_costs_its_own_sources_only(tmp_path: Path) -> None:
    """What it was cannot be set aside as a record: no worker that has it in hand can go on. Mended,
    the run goes on with all of it.
    """
    folder = user(tmp_path / "user", 2)
    mended = (folder / "pipeline.toml").read_text(encoding="utf-8")
    (folder / "odd.py").write_text(UNSTORABLE, encoding="utf-8")
    (folder / "pipeline.toml").write_text(
        mended.replace("user_stages:Crowd", "odd:Odd"), encoding="utf-8"
    )
    for name in NAMES:
        footage.write_scene(folder / f"{name}.mp4", footage.steady(FRAMES))
    clips = [f"{name}={name}.mp4" for name in NAMES]
    failed = framegate(folder, "run", *clips, "-d", "data", "--pace", "realtime")
    assert failed.code == SOURCE_FAILED, failed.err
    assert "the run continues without b, d" in failed.err
    assert "source d: worker shard-2: stage detect: its state cannot be stored" in failed.err
    with server(folder / "data" / "store") as store:
        reader = Reader(store.url)
        served = {name: len(reader.whole(name, FRAMES)) for name in ("a", "c")}
        reader.close()
    assert served == {"a": FRAMES, "c": FRAMES}
    (folder / "pipeline.toml").write_text(mended, encoding="utf-8")
    resumed = framegate(folder, "run", "-d", "data", "--resume")
    assert resumed.code == DONE, resumed.err
    published(folder)


def reasons(port: int) -> tuple[int, list[str]]:
    """The status of /readyz, and the reasons that it gives."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=DEADLINE_S) as reply:
            return reply.status, []
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)["why"]
    except OSError:
        return 0, []


SCARCE = """
from pathlib import Path

from user_stages import Crowd


class Scarce(Crowd):
    def __init__(self, options, context):
        super().__init__(options, context)
        if Path("full").exists():
            raise MemoryError("no memory is left")
"""


def test_a_shard_that_cannot_start_later_costs_its_own_sources_only(tmp_path: Path) -> None:
    folder = user(tmp_path / "user", 3)
    tables = (folder / "pipeline.toml").read_text(encoding="utf-8")
    (folder / "scarce.py").write_text(SCARCE, encoding="utf-8")
    (folder / "pipeline.toml").write_text(
        tables.replace("user_stages:Crowd", "scarce:Scarce"), encoding="utf-8"
    )
    for name, count in (("long", LONG), ("short", SHORT)):
        footage.write_scene(folder / f"{name}.mp4", footage.steady(count))
    asked, port = Asked(folder), free_port()
    with service(folder, "a=long.mp4", "--pace", "realtime", "--http", f"127.0.0.1:{port}") as run:
        asked.until("a", 1)
        wait_until("the run is ready", lambda: reasons(port) == (200, []))
        (folder / "full").touch()
        asked.does("add", "b=short.mp4")
        run.says("the run continues without b")
        given_up = (503, ["source b: the run gave its worker up"])
        wait_until("monitors see it", lambda: reasons(port) == given_up)
        (folder / "full").unlink()
        asked.does("add", "c=short.mp4")
        asked.until("c", SHORT)
        asked.until("a", len(asked.seqs("a")) + 5)
        run.interrupt()
        ended = run.wait()
    assert ended.code == SOURCE_FAILED, ended.err
    assert "source b: worker shard-2: stage detect" in ended.err
    assert "no memory is left" in ended.err


def test_sources_come_and_go_and_the_others_stay_where_they_are(tmp_path: Path) -> None:
    """A worker begins with its first source. One that has nothing to do is not taken for hung."""
    folder = user(tmp_path / "user", 3)
    for name, count in (("long", LONG), ("short", SHORT)):
        footage.write_scene(folder / f"{name}.mp4", footage.steady(count))
    asked = Asked(folder)
    with service(folder, "a=long.mp4", "--pace", "realtime") as run:
        asked.until("a", 1)
        assert workers(run.process.pid).keys() == {"shard-1"}
        asked.does("add", "b=short.mp4", "c=long.mp4")
        asked.until("b", SHORT)
        asked.until("c", 1)
        pids = workers(run.process.pid)
        assert pids.keys() == {"shard-1", "shard-2", "shard-3"}
        before = tokens(asked.store, "a", "c")
        asked.does("remove", "b")
        asked.does("add", "d=short.mp4")
        asked.until("d", SHORT)
        at = len(asked.seqs("a"))
        asked.until("a", at + 2 * HUNG_S * 25)
        assert workers(run.process.pid) == pids
        assert tokens(asked.store, "a", "c") == before
        assert asked.seqs("d") == frames(1, SHORT)
        calls = asked.store.client.info("commandstats")
        assert "cmdstat_client|caching" not in calls, (
            "its readers are here: no decoder asks for room"
        )
        run.interrupt()
        ended = run.wait()
    assert ended.code == DONE, ended.err
    assert "worker shard" not in ended.err


def test_a_run_goes_on_when_all_that_one_shard_has_was_taken_over(tmp_path: Path) -> None:
    one, two = user(tmp_path / "one", 2), user(tmp_path / "two", 1)
    long = footage.write_scene(tmp_path / "long.mp4", footage.steady(LONG))
    short = footage.write_scene(tmp_path / "short.mp4", footage.steady(SHORT))
    with server(tmp_path / "server") as store:
        reader = Reader(store.url)
        words = ("-d", "data", "--store", store.url, "--http", "off")
        clips = (f"a={long}", f"b={long}")
        with Command(one, "run", *clips, *words, "--pace", "realtime") as run:
            for name in ("a", "b"):
                wait_until(f"{name} is served", lambda name=name: len(reader.results(name)) > 5)
            mine = tokens(reader, "a")
            taken = framegate(two, "run", f"b={short}", *words, "--take-over")
            assert taken.code == DONE, taken.err
            run.says("source b: another run took it over")
            at = len(reader.results("a"))
            wait_until("it goes on", lambda: len(reader.results("a")) > at + 20)
            assert tokens(reader, "a") == mine
            wait_until("the other is there", lambda: "shard-2" in workers(run.process.pid))
            os.kill(workers(run.process.pid)["shard-1"], signal.SIGKILL)
            wait_until("it goes on", lambda: tokens(reader, "a") != mine)
            run.interrupt()
            ended = run.wait()
        assert ended.code == SOURCE_FAILED, ended.err
        assert "in total: a" in ended.err
        assert "in total: b" not in ended.err, "its results are those of the other run"
        results = reader.results("a")
        assert [(r["epoch"], r["seq"]) for r in results] == frames(1, len(results))
        reader.close()
