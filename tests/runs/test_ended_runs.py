"""What a run left is read by whoever comes later, and stays as it is."""

from __future__ import annotations

import fcntl
import hashlib
import itertools
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from framegate import subscribe
from framegate.pipeline.contracts.errors import ConfigFaults, DataFolderRefused
from framegate.pipeline.run.ended import open_store
from framegate.pipeline.run.folder import RunFolder
from framegate.pipeline.store.redis_client import ANSWER_S
from tests.support import footage
from tests.support.commands import Command, framegate, user_folder
from tests.support.runs import children, environment, stop_process, wait_until

pytestmark = pytest.mark.whole_run

FRAMES = 150
PEOPLE = '[stages.numbers]\nuse = "user_stages:Numbers"\ninput = "cache"\non_lag = "wait"\n'


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder with a run in `data` that has ended."""
    made = user_folder(tmp_path_factory.mktemp("user"), more=PEOPLE)
    footage.write_scene(made / "door.mp4", footage.steady(FRAMES))
    footage.write_scene(made / "yard.mp4", footage.steady(20))
    ended = framegate(made, "run", "door.mp4", "yard.mp4", "-d", "data", "--http", "off")
    assert ended.code == 0, ended.err
    return made


@pytest.fixture
def data(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Its data folder; what readers need for themselves is gone once they are."""
    own = tmp_path / "tmp"
    own.mkdir()
    monkeypatch.setenv("TMPDIR", str(own))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    before = digests(folder / "data")
    yield folder / "data"
    assert list(own.iterdir()) == []
    assert digests(folder / "data") == before


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file that a store would read."""
    files = sorted((folder / "store" / "appendonlydir").iterdir())
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def test_each_result_is_there_once_and_then_it_ends(data: Path) -> None:
    with subscribe(data, start="earliest") as results:
        seen = [(result.source, result.seq) for result in results]
        assert {name: end.frames for name, end in results.ends.items()} == {
            "door": FRAMES,
            "yard": 20,
        }
    assert [seq for source, seq in seen if source == "door"] == list(range(FRAMES))
    assert [seq for source, seq in seen if source == "yard"] == list(range(20))
    with subscribe(data, ["door"], {"door": f"1-{FRAMES - 3}"}) as rest:
        assert [result.seq for result in rest] == [FRAMES - 2, FRAMES - 1]


def test_what_could_give_nothing_is_refused(data: Path) -> None:
    with pytest.raises(ConfigFaults, match='has ended and has no new results: give start="ea'):
        subscribe(data)
    with pytest.raises(ConfigFaults, match="read it without a group"):
        subscribe(data, start="earliest", group="g", consumer="c")
    with (
        subscribe(data, ["gate"], "earliest") as results,
        pytest.raises(ConfigFaults, match="no source gate; there are: door, yard"),
    ):
        next(results)
    with pytest.raises(
        ConfigFaults,
        match=r"no run is active in .*none on this host, .* ended run: there is no such folder",
    ):
        subscribe(data.parent / "none", start="earliest")


def test_two_read_at_once_and_a_run_goes_on_meanwhile(folder: Path, data: Path) -> None:
    other_run = folder / "again"
    shutil.copytree(data, other_run)
    with subscribe(other_run, start="earliest") as one, subscribe(other_run, None, {}) as other:
        first = list(itertools.islice(one, 10))
        assert list(itertools.islice(other, 10)) == first
        again = framegate(folder, "run", "-d", "again", "--resume", "--http", "off")
        assert again.code == 0, again.err
        assert len(list(one)) == len(list(other)) == FRAMES + 20 - 10


def test_a_run_that_starts_waits_for_whoever_opens_the_store(data: Path) -> None:
    lock = os.open(data / "lock", os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_SH)
    opened: list[RunFolder] = []
    thread = threading.Thread(target=lambda: opened.append(RunFolder(data, made_by_us=False)))
    thread.start()
    os.close(lock)
    thread.join()
    (run,) = opened
    with pytest.raises(DataFolderRefused, match="in use by another run"):
        RunFolder(data, made_by_us=False)
    run.close(keep=True)


READER = """
import sys
from framegate import subscribe
results = subscribe(sys.argv[1], start="earliest")
print(next(results).seq, flush=True)
sys.stdin.read()
"""


def test_nothing_is_left_of_a_reader_that_is_killed(data: Path) -> None:
    reader = subprocess.Popen(
        [sys.executable, "-c", READER, str(data)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment(),
    )
    assert reader.stdout is not None
    assert reader.stdout.readline() == b"0\n"
    (keeper,) = children(reader.pid)
    (server,) = children(keeper)
    reader.kill()
    reader.communicate()
    for pid in (keeper, server):
        wait_until("it is gone", lambda pid=pid: not Path(f"/proc/{pid}/exe").exists())


def test_what_ends_in_the_middle_of_a_command_is_read_up_to_there(
    folder: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(folder / "data", data)
    (log,) = (data / "store" / "appendonlydir").glob("*.incr.aof")
    log.write_bytes(log.read_bytes()[:-5])
    before = digests(data)
    with subscribe(data, ["door"], "earliest") as results:
        assert [result.seq for result in results] == list(range(FRAMES))
    assert digests(data) == before


@pytest.mark.usefixtures("data")
def test_commands_say_how_it_ended(folder: Path) -> None:
    watched = framegate(folder, "watch", "-d", "data")
    assert watched.code == 0
    assert "finished" in watched.out
    assert str(FRAMES) in watched.out
    said = (
        "framegate: the run in data is not active; framegate results -d data shows its results, "
        "framegate run -d data --resume continues it\n"
    )
    assert watched.err == said
    (door, _) = json.loads(framegate(folder, "watch", "--json", "-d", "data").out)
    assert (door["state"], door["published"], door["fps"]) == ("finished", FRAMES, None)
    listed = framegate(folder, "sources", "-d", "data")
    assert f"{FRAMES + 20} decoded = {FRAMES + 20} published + 0 dropped" in listed.out
    assert listed.err == said
    (door, _) = json.loads(framegate(folder, "sources", "--json", "-d", "data").out)
    assert (door["state"], door["decoded"]) == ("finished", FRAMES)
    assert door["place"].endswith("door.mp4")


def test_a_run_is_read_where_it_is_while_it_goes_on_and_once_it_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = user_folder(tmp_path / "user")
    monkeypatch.setenv("XDG_STATE_HOME", str(made / "state"))
    footage.write_scene(made / "long.mp4", footage.steady(600, fps=5))
    with Command(made, "run", "long.mp4", "-d", "data", "--pace", "realtime") as run:
        run.says("long: running")
        with open_store(made / "data") as opened, open_store(None) as found:
            assert (opened.ended, found.url) == (False, opened.url)
        with subscribe(made / "data", start="earliest") as results:
            assert next(results).seq == 0
        run.kill()
    with open_store(made / "data") as opened:
        assert opened.ended
    (shown,) = json.loads(framegate(made, "watch", "--json", "-d", "data").out)
    assert shown["state"] == "stopped"
    with subscribe(made / "data", start="earliest") as results:
        assert next(results).seq == 0


def test_watch_waits_while_the_store_is_started_again(tmp_path: Path) -> None:
    """The store hangs for longer than a command waits for a reply."""
    hung_s = ANSWER_S + 3
    made = user_folder(tmp_path / "user", more=f"[workers]\nhung_s = {hung_s}\n")
    footage.write_scene(made / "long.mp4", footage.steady(6000))
    (tmp_path / "watch").mkdir()
    with (
        Command(made, "run", "long.mp4", "-d", "data", "--pace", "realtime") as run,
        Command(tmp_path / "watch", "watch", "--json", "-d", str(made / "data")) as watch,
    ):
        wait_until("it shows the source", lambda: "long" in watch.out)
        stop_process(store_of(run))
        run.says("the embedded store was silent")
        lines = len(watch.out.splitlines())
        wait_until("it shows it again", lambda: len(watch.out.splitlines()) > lines + 2)
        run.interrupt()
        assert run.wait().code == 0
        ended = watch.wait()
    assert ended.code == 0
    assert ended.err == "framegate: the run has ended\n"


def store_of(run: Command) -> int:
    """Process id of a run's embedded server."""
    found = children(run.process.pid).items()
    return next(child for child, words in found if "valkey-server" in words[0])


def test_without_a_folder_it_is_the_last_run_that_was_started_without_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = user_folder(tmp_path / "user")
    monkeypatch.setenv("XDG_STATE_HOME", str(made / "state"))
    footage.write_scene(made / "short.mp4", footage.steady(5))
    assert framegate(made, "run", "short.mp4", "--http", "off").code == 0
    (left,) = (made / "state" / "framegate").glob("*/run.json")
    with open_store(None) as opened:
        assert (opened.ended, opened.folder) == (True, left.parent)
