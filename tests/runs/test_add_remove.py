"""Sources come and go while a run goes on: the others' frames stay in an unbroken sequence."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import footage
from tests.support.asked import Asked, frames, kill, service, workers
from tests.support.commands import Command, Reader, user_folder
from tests.support.runs import stop_process, wait_until
from tests.support.servers import server

pytestmark = pytest.mark.whole_run

DONE, USAGE = 0, 2
LONG, SHORT = 2000, 60  # LONG: 80 s at its own pace


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = user_folder(tmp_path / "user")
    footage.write_scene(folder / "long.mp4", footage.steady(LONG))
    footage.write_scene(folder / "short.mp4", footage.steady(SHORT))
    return folder


def test_sources_come_and_go_beside_one_that_stays_while_workers_die(folder: Path) -> None:
    user_folder(folder, apart=True)
    run_words = ("run", "stays=long.mp4", "-d", "data", "--pace", "realtime", "--json")
    asked = Asked(folder)
    with Command(folder, *run_words) as run:
        asked.until("stays", 5)
        for n, worker in enumerate(("ingest", "infer", "publish")):
            asked.does("add", f"comes{n}=short.mp4", "goes=long.mp4")
            kill(run, worker)
            asked.until(f"comes{n}", SHORT)
            asked.does("remove", "goes")
            assert set(asked.written()) == {"stays", *(f"comes{i}" for i in range(n + 1))}
        at = len(asked.seqs("stays"))
        asked.until("stays", at + 5)
        with asked.store.client as client:
            assert client.hget("fg:{goes}:own", "run") == b""
        goes = asked.seqs("goes")
        stays = asked.store.results("stays")
        ends = [end for _, kind, end in asked.store.entries("goes", "results") if kind == "end"]
        asked.does("remove", "stays")
        ended = run.wait()
    assert ended.code == DONE, ended.err
    assert [(r["epoch"], r["seq"]) for r in stays] == frames(1, len(stays))
    assert [end["frames"] for end in ends if end["last"]] == [
        len([seq for e, seq in goes if e == epoch]) for epoch in sorted({e for e, _ in goes})
    ]
    for epoch in {e for e, _ in goes}:
        there = [place for place in goes if place[0] == epoch]
        assert there == frames(epoch, len(there))
    for n in range(3):
        printed = [(r["epoch"], r["seq"]) for r in ended.results(f"comes{n}")]
        assert printed == frames(printed[0][0], SHORT)
    assert [(r["epoch"], r["seq"]) for r in ended.results("goes")] == goes


@pytest.mark.long  # test_accounting.py holds cameras and their metrics to it
def test_accounts_close_at_any_moment_and_say_what_streams_hold(folder: Path) -> None:
    user_folder(folder, apart=True)
    asked = Asked(folder)
    footage.write_scene(folder / "long.mp4", footage.steady(LONG, fps=100))
    with Command(folder, "run", "long.mp4", "-d", "data", "--pace", "realtime") as run:
        asked.until("long", 1)
        for n in range(50):
            if n % 10 == 5:
                kill(run, ("infer", "publish", "ingest")[n // 10 % 3])
            with asked.store.client as client, client.pipeline(transaction=True) as at_once:
                at_once.hgetall("fg:{long}:count")
                at_once.hget("fg:{long}:at:cache", "p")
                at_once.xrange("fg:{long}:out:decode")
                counts, published_to, decoded = at_once.execute()
            held = [i for i, f in decoded if f[b"k"] == b"frame" and after(i, published_to)]
            in_flight = int(counts[b"decoded"]) - int(counts[b"published"])
            assert in_flight == len(held) <= 32
        [said] = json.loads(asked.does("sources", "--json"))
        run.interrupt()
        assert run.wait().code == DONE
    assert said["decoded"] == said["published"] + sum(said["dropped"].values()) + said["in_flight"]


def after(position: bytes, other: bytes) -> bool:
    return [int(n) for n in position.split(b"-")] > [int(n) for n in other.split(b"-")]


def test_added_sources_survive_a_killed_supervisor_and_removed_ones_stay_away(
    folder: Path,
) -> None:
    asked = Asked(folder)
    with service(folder, "stays=long.mp4", "--pace", "realtime") as run:
        asked.does("add", "comes=long.mp4", "goes=short.mp4")
        asked.until("comes", 5)
        asked.until("goes", SHORT)
        asked.does("remove", "goes")
        run.kill()
    for words in (("add", "short.mp4"), ("remove", "comes")):
        refused = asked.says(*words)
        assert refused.returncode == USAGE
        assert "no run is active in " in refused.stderr
    with Command(folder, "run", "-d", "data", "--resume", "--json") as run:
        ended = run.wait()
    assert ended.code == DONE, ended.err
    with server(folder / "data" / "store") as store:
        reader = Reader(store.url)
        for source in ("stays", "comes"):
            assert len(reader.whole(source, LONG)) == LONG
        assert [r["epoch"] for r in reader.results("goes")] == [1] * SHORT
    assert ended.results("goes") == []


def test_a_removal_that_a_kill_interrupts_is_finished_by_resume(folder: Path) -> None:
    user_folder(folder, apart=True)
    asked = Asked(folder)
    with service(folder, "stays=long.mp4", "goes=long.mp4", "--pace", "realtime") as run:
        asked.until("goes", 5)
        stop_process(workers(run.process.pid)["publish"])
        with Command(other(folder), "remove", "goes", "-d", str(folder / "data")) as removal:
            wait_until("noted", lambda: asked.sources()["goes"]["state"] == "removing")
            assert asked.written()["goes"]["ending"]
            again = asked.says("add", "goes=short.mp4")
            assert (again.returncode, "is being removed" in again.stderr) == (USAGE, True)
            run.kill()
            assert "ended before it was done" in removal.wait().err
    with service(folder, "--pace", "realtime") as run:
        wait_until("it is gone", lambda: "goes" not in asked.written())
        at = len(asked.seqs("stays"))
        asked.until("stays", at + 5)
        stays = asked.seqs("stays")
        assert stays == frames(1, len(stays))
        goes = asked.store.entries("goes", "results")
        assert [kind for _, kind, _ in goes] == ["frame"] * (len(goes) - 1) + ["end"]


def other(folder: Path) -> Path:
    (folder / "other").mkdir(exist_ok=True)
    return folder / "other"


def test_a_name_that_comes_back_goes_on_in_the_next_epoch(folder: Path) -> None:
    asked = Asked(folder)
    with service(folder):
        for epoch in (1, 2):
            asked.does("add", "door=short.mp4")
            asked.until("door", epoch * SHORT)
            asked.does("remove", "door")
        assert asked.seqs("door") == frames(1, SHORT) + frames(2, SHORT)


def test_a_service_waits_without_sources_and_is_resumed(folder: Path) -> None:
    asked = Asked(folder)
    with service(folder) as run:
        assert "the run has no source" in asked.does("sources")
        asked.does("add", "short.mp4")
        wait_until("it is finished", lambda: asked.sources()["short"]["state"] == "finished")
        run.interrupt()
        assert run.wait().code == DONE
    with service(folder) as run:
        assert asked.sources()["short"]["published"] == SHORT
        asked.does("remove", "short")
        assert asked.sources() == {}
        run.interrupt()
        assert run.wait().code == DONE


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (("add", "stays=short.mp4"), "source stays: the run already has a source of that name"),
        (("add", "Door=short.mp4"), "'Door': not the name of a source"),
        (("add", "short.mp4", "none.mp4"), "there is no such file"),
        (("add", "short.mp4", "--frames", "some"), "--frames some: must be"),
        (("add", "door=-"), "source door: standard input had no URL"),
        (("remove", "none"), "source none: the run has no such source; it has: stays"),
        (("remove", "stay"), "it has: stays; did you mean stays?"),
        (("remove", "stays", "none"), "source none: the run has no such source"),
    ],
)
def test_what_cannot_be_changed_changes_nothing(
    asked: Asked, words: tuple[str, ...], fault: str
) -> None:
    ended = asked.says(*words)
    assert ended.returncode == USAGE
    assert fault in ended.stderr
    assert "Traceback" not in ended.stderr
    assert list(asked.written()) == ["stays"]


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asked]:
    """A run with one source that outlives the tests."""
    folder = user_folder(tmp_path_factory.mktemp("asked") / "user")
    footage.write_scene(folder / "long.mp4", footage.steady(LONG))
    footage.write_scene(folder / "short.mp4", footage.steady(SHORT))
    with service(folder, "stays=long.mp4", "--pace", "realtime"):
        yield Asked(folder)


def test_a_source_of_another_run_is_refused_and_can_be_taken_over(folder: Path) -> None:
    with server(folder / "server") as store:
        url = ("--store", store.url)
        (folder / "theirs").mkdir()
        asked, theirs = Asked(folder), Asked(folder, "theirs")
        with service(folder, "door=long.mp4", "stays=long.mp4", "--pace", "realtime", *url):
            words = ("run", "-d", str(folder / "theirs"), "--resume", *url)
            with Command(user_folder(folder / "more"), *words):
                wait_until("it can be asked", (folder / "theirs" / "control.sock").exists)
                refused = theirs.says("add", "short.mp4", "door=short.mp4")
                assert refused.returncode == USAGE
                assert "source door is owned by run " in refused.stderr
                assert theirs.sources() == {}, "all or none"
                theirs.does("add", "door=short.mp4", "--take-over")
                wait_until("lost", lambda: asked.sources()["door"]["state"] == "taken over")
                asked.does("add", "short.mp4")
                asked.does("remove", "door")
                assert list(asked.sources()) == ["stays", "short"]
                assert list(theirs.sources()) == ["door"]
