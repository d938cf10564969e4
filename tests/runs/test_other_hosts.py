"""A source keeps its model on another host, too; a host that lacks it is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis

from framegate.models.registry.registry import Registry
from framegate.pipeline.contracts import keys
from framegate.pipeline.run.rpc import Use
from framegate.stages.detect.prepared_models import choose
from tests.runs.test_swaps import ask_until_taken
from tests.support import footage
from tests.support.asked import Asked, service
from tests.support.commands import Command, user_folder
from tests.support.own_models import own_model
from tests.support.runs import wait_until
from tests.support.servers import server

pytestmark = pytest.mark.whole_run

USAGE = 2


def test_a_source_that_is_taken_over_keeps_its_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, theirs = tmp_path / "mine", tmp_path / "theirs"
    for folder in (mine, theirs):
        folder.mkdir()
        footage.write_scene(folder / "door.mp4", footage.steady(3000), (96, 64))
    model = own_model(tmp_path / "registry", "mine", size=(96, 64))
    with server(tmp_path / "server") as store:
        words = ("--store", store.url, "--http", "off")
        with service(mine, "door=door.mp4", "--pace", "realtime", *words):
            chosen = choose("mine", mine / "data", tmp_path / "registry")
            ask_until_taken(mine / "data", Use(chosen, []))
            run = ("run", "door=door.mp4", "-d", "data", "--take-over", *words)
            with Command(theirs, *run) as refused:
                ended = refused.wait()
            assert ended.code == USAGE
            assert f"source door: its model {chosen} is not on this host" in ended.err
            assert f"rsync -a {announced_at(store.url)}/ model/" in ended.err
            monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "own"))
            Registry().put(model)
            with Command(theirs, *run) as taken:
                other = Asked(theirs)
                wait_until("it serves", (theirs / "data" / "control.sock").exists)
                wait_until("it is there", lambda: "door" in other.sources())
                assert other.sources()["door"]["model"] == chosen
                assert other.written()["door"]["model"] == chosen
                taken.interrupt()
                taken.wait()


def test_a_run_takes_other_sources_while_it_gets_ready_for_one_that_it_takes_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = user_folder(tmp_path / "user")
    toml = folder / "pipeline.toml"
    toml.write_text(
        toml.read_text(encoding="utf-8").replace("user_stages:Crowd", "user_stages:PreparesSlowly"),
        encoding="utf-8",
    )
    footage.write_scene(folder / "short.mp4", footage.steady(20))
    (folder / "data").mkdir()
    model = own_model(tmp_path / "registry", "mine", size=(96, 64))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "own"))
    chosen = Registry().put(model).manifest.ref
    asked = Asked(folder)
    with service(folder, "--http", "off"):
        with asked.store.client as client:
            client.hset(keys.own("door"), "model", f"{chosen} elsewhere:/models")
        asked.does("add", "first=short.mp4")
        asked.until("first", 1)  # all workers are there
        taking = ("add", f"door={folder / 'short.mp4'}", "--take-over", "-d", str(folder / "data"))
        with Command(user_folder(tmp_path / "other"), *taking) as take_over:
            wait_until("it gets ready", (folder / "data" / "asked").exists)
            asked.does("add", "other=short.mp4")
            asked.until("other", 20)
            asked.does("remove", "other")
            assert list(asked.written()) == ["first"]
            assert take_over.process.poll() is None
            (folder / "data" / chosen).touch()
            ended = take_over.wait()
        assert ended.code == 0, ended.err
        assert asked.written()["door"]["model"] == chosen
        asked.until("door", 20)


def announced_at(url: str) -> str:
    client = redis.Redis.from_url(url, decode_responses=True)
    with client:
        return str(client.hget(keys.own("door"), "model")).partition(" ")[2]
