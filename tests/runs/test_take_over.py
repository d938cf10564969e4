"""Two runs that want one source: the younger has it, whatever restarts the older."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
import redis

from framegate.pipeline.config.config import read_config
from framegate.pipeline.config.sources import SourceConfig
from framegate.pipeline.contracts.errors import DataFolderRefused, SourceOwned
from framegate.pipeline.run.folder import RunFile, open_folder
from framegate.pipeline.run.source_forms import run_source, source_spec
from framegate.pipeline.run.sources import RunSources
from framegate.pipeline.store.admin import StoreAdmin
from framegate.pipeline.store.hop import library
from framegate.stages.escalate.configured_models import ConfiguredModels
from tests.runs.bad.folders import HELD_UP, STANDS_STILL, open_gate
from tests.support import footage
from tests.support.commands import Command, Reader, framegate, user_folder
from tests.support.runs import environment, wait_until
from tests.support.servers import server

pytestmark = pytest.mark.whole_run

FRAMES = 60
TAKEN_OVER = 75


class Restarting:
    """What keeps a run alive, as a shell loop would: the same words again, whatever the exit code.

    It gives up after some starts; and ends once a start went well.
    """

    def __init__(self, folder: Path, *words: str, most: int = 2) -> None:
        self.folder, self.codes, self.said = folder, list[int](), ""
        self.started = 0
        self._words, self._most = words, most
        self._thread = threading.Thread(target=self._loop)
        self._run: Command | None = None

    def _loop(self) -> None:
        while self.started < self._most and 0 not in self.codes:
            self.started += 1
            with Command(self.folder, "run", *self._words) as self._run:
                ended = self._run.wait()
                self.said += ended.err
                self.codes.append(ended.code)

    def __enter__(self) -> Restarting:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._most = 0
        if self._run is not None:
            self._run.kill()
        self._thread.join()


@contextmanager
def store_and_clip(folder: Path) -> Iterator[tuple[Reader, tuple[str, ...]]]:
    """A store of one's own; what every supervisor says of the clip that they all want."""
    footage.write_scene(folder / "clip.mp4", footage.steady(FRAMES))
    with server(folder / "server") as store:
        words = (f"cam={folder / 'clip.mp4'}", "-d", "data", "--store", store.url, "--http", "off")
        reader = Reader(store.url)
        yield reader, words
        reader.close()


@pytest.mark.parametrize("published", [0, pytest.param(STANDS_STILL, marks=pytest.mark.long)])
def test_two_supervisors_that_restart_with_take_over_do_not_take_turns(
    tmp_path: Path, published: int
) -> None:
    """The older ends at each start; the younger serves all of it undisturbed, once.

    Also where the older had published nothing yet.
    """
    held = HELD_UP.replace(f"at = {STANDS_STILL}", f"at = {published}")
    one, two = (user_folder(tmp_path / name, main=held, apart=True) for name in ("one", "two"))
    with store_and_clip(tmp_path) as (reader, words):
        again = (*words, "--resume", "--take-over")

        def on_its_way(epoch: int) -> bool:
            return any(i.startswith(f"{epoch}-") for i, *_ in reader.entries("cam", "out:detect"))

        with Restarting(one, *again) as older:
            wait_until("the first is on its way", lambda: on_its_way(1))
            with Restarting(two, *again) as younger:
                wait_until("the second has it", lambda: on_its_way(2))
                open_gate(one)
                wait_until("the first has given up", lambda: len(older.codes) == 2)
                owner = reader.client.hgetall("fg:{cam}:own")
                open_gate(two)
                wait_until("the second is done", lambda: younger.codes)
                assert younger.codes == [0], f"{younger.said}\nolder:\n{older.said}"
        assert older.codes == [TAKEN_OVER] * 2, older.said
        assert (owner[b"generation"], owner[b"epoch"]) == (b"2", b"2")
        positions = [(r["epoch"], r["seq"]) for r in reader.results("cam")]
        assert all(a < b for a, b in pairwise(positions)), "each once, in order"
        assert [seq for epoch, seq in positions if epoch == 2] == list(range(FRAMES))
        late = framegate(one, "run", *again)
        assert late.code == TAKEN_OVER, "nor does it begin again what the other has finished"
        assert "source cam: another run took it over (now: " in late.err
        assert len(reader.results("cam")) == len(positions)


@pytest.mark.long
def test_a_run_goes_on_with_what_was_not_taken_from_it(tmp_path: Path) -> None:
    one, two = (user_folder(tmp_path / name) for name in ("one", "two"))
    with store_and_clip(tmp_path) as (reader, words):
        other = f"other={tmp_path / 'clip.mp4'}"
        assert framegate(one, "run", other, *words).code == 0
        run = reader.client.hget("fg:{cam}:own", "superseded")
        assert run == b""
        mine = (
            (one / "data" / "run.json")
            .read_text(encoding="utf-8")
            .partition('"run": "')[2]
            .partition('"')[0]
        )
        reader.client.hset("fg:{cam}:own", "run", mine)  # as if it had been killed
        assert framegate(two, "run", *words, "--take-over").code == 0
        again = framegate(one, "run", "--resume", *words[1:])
        assert again.code == 1, "one of its sources failed"
        assert "source cam: another run took it over" in again.err
        assert "source other" not in again.err


def test_a_run_without_a_folder_of_its_own_takes_nothing_over(tmp_path: Path) -> None:
    folder = user_folder(tmp_path / "user")
    ended = framegate(folder, "run", "cam=clip.mp4", "--take-over")
    assert ended.code == 2
    assert "--take-over needs -d DATA: a run is identified by its data folder" in ended.err


# `framegate run`, killed at the first (second, ...) call of a function of ours: before or after it.
KILLED = """
import os, signal, sys
from framegate.cli.main import main
from framegate.pipeline.run.folder import RunFolder
from framegate.pipeline.store.admin import StoreAdmin

owner, name, when, count = sys.argv[1].split(" ")
owner = {"folder": RunFolder, "store": StoreAdmin}[owner]
real, calls = getattr(owner, name), 0

def call(*args, **kwargs):
    global calls
    calls += 1
    if calls == int(count) and when == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    result = real(*args, **kwargs)
    if calls == int(count):
        os.kill(os.getpid(), signal.SIGKILL)
    return result

setattr(owner, name, call)
sys.exit(main(sys.argv[2:]))
"""
PLACES = {
    "before run.json": "folder write before 1",
    "after run.json": "folder write after 1",
    "before a claim": "store claim before 1",
    "after a claim": "store claim after 1",
    "between two claims": "store claim before 2",
    "after all claims": "folder write before 3",
    "after it has begun": "folder write after 3",
}


def killed_at(place: str, folder: Path, *words: str) -> None:
    command = [sys.executable, "-c", KILLED, PLACES[place], "run", *words]
    ended = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr


@pytest.mark.parametrize(
    "place",
    [
        place if place == "after a claim" else pytest.param(place, marks=pytest.mark.long)
        for place in PLACES
    ],
)
def test_a_run_that_is_killed_while_it_begins_goes_on_in_its_own_folder(
    tmp_path: Path, place: str
) -> None:
    """With the words of a service, which always says --resume; and with those of a person."""
    folder = user_folder(tmp_path / "user")
    footage.write_scene(folder / "clip.mp4", footage.steady(FRAMES))
    with server(tmp_path / "server") as store:
        words = ("-d", "data", "--store", store.url, "--http", "off")
        clips = ("one=clip.mp4", "two=clip.mp4")
        killed_at(place, folder, *clips, *words)
        assert (folder / "data" / "run.json").exists() == (place != "before run.json")
        named = clips if place == "before run.json" else ()
        ended = framegate(folder, "run", *named, *words, "--resume")
        assert ended.code == 0, ended.err
        reader = Reader(store.url)
        for name in ("one", "two"):
            assert len(reader.whole(name, FRAMES)) == FRAMES
        reader.close()


class Wanting:
    """A run that is up as far as its sources go."""

    def __init__(self, folder: Path, url: str) -> None:
        self.config = read_config("defaults", "")
        self.folder = open_folder(folder / "data", resume=False)
        self.store = StoreAdmin(url)
        run = RunFile("mine", self.store.prepare(), ())
        models = ConfiguredModels(self.config.stages, self.folder.path)
        spec_of = partial(source_spec, self.config, None)
        self.sources = RunSources(run, self.folder, self.store, "mine", spec_of, models)

    def add(self, *names: str) -> None:
        said = [SourceConfig(f"rtsp://{name}/1") for name in names]
        added = [run_source(name, s, "add") for name, s in zip(names, said, strict=True)]
        self.sources.add(added, take_over=False)

    def written(self) -> list[str]:
        run = self.folder.read()
        return [source.name for source in run.sources] if run is not None else []

    def owned(self) -> list[str]:
        return [name for name in self.store.sources() if self.store.owner(name) == "mine"]

    def served(self) -> list[str]:
        return [spec.name for spec in self.sources.specs()]


def test_an_addition_adds_all_or_nothing_whatever_the_store_refuses(tmp_path: Path) -> None:
    """That other hosts cannot be told which model looks at it is no failure."""
    with server(tmp_path / "server") as embedded, redis.Redis.from_url(embedded.url) as client:
        run = Wanting(tmp_path, embedded.url)
        telling = "redis.register_function(PREFIX .. 'announce', announce)"
        client.function_load(library().code.replace(telling, ""), replace=True)  # it fails, now
        run.add("one")
        assert run.written() == run.owned() == run.served() == ["one"]
        client.function_load(library().code, replace=True)
        run.store.claim("taken", "theirs", "another run", take_over=False)
        with pytest.raises(SourceOwned, match="source taken is owned by run another run"):
            run.add("two", "taken")
        assert run.written() == run.owned() == run.served() == ["one"]
        (tmp_path / "data" / "run.new").mkdir()  # nothing can be written in the folder any more
        with pytest.raises(DataFolderRefused):
            run.add("three")
        assert run.written() == run.owned() == run.served() == ["one"]
        run.store.close()
        run.folder.close(keep=True)
