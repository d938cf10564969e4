"""A user's own stages: beside the main path and on it, good ones, slow ones and broken ones.

The folder is a user's: a pipeline.toml and a module beside it, `framegate run`, nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgpack  # type: ignore[import-untyped]
import pytest

from framegate.pipeline.contracts.records import VERSION, End, decode_record, encode
from framegate.pipeline.store.embedded import EmbeddedStore
from tests.support import footage
from tests.support.commands import Command, Reader, framegate, user_folder
from tests.support.runs import wait_until
from tests.support.servers import server

pytestmark = pytest.mark.whole_run

LONG = 600  # frames, 24 s: a run is stopped before, although a late stage catches up at once
# On a slow machine a gate stays closed for longer than a worker may usually make no progress.
PATIENT = "[workers]\nhung_s = 3600.0\n"
UNEVEN = [0.0, 1.5, 30.25, 59.9, 60.0, 61.0, 119.5, 240.0, 241.0, 250.0]  # seconds


def side(
    use: str, reads: str, options: str = "", *, on_lag: str = "wait", name: str = "side"
) -> str:
    """A table of a stage beside the main path."""
    return (
        f'[stages.{name}]\nuse = "user_stages:{use}"\ninput = "{reads}"\non_lag = "{on_lag}"\n'
        f"{options}\n"
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return user_folder(tmp_path / "user")


@pytest.fixture
def store(folder: Path) -> Iterator[EmbeddedStore]:
    with server(folder / "server") as running:
        yield running


@pytest.fixture
def reader(store: EmbeddedStore) -> Iterator[Reader]:
    found = Reader(store.url)
    yield found
    found.close()


def run(folder: Path, store: EmbeddedStore, *sources: str, code: int = 0) -> str:
    """Run to the end, with this exit code; what it said."""
    ended = framegate(folder, "run", *sources, "-d", "data", "--store", store.url)
    assert ended.code == code, ended.err
    return ended.err


def people_by_hand(results: list[dict[str, Any]]) -> dict[int, int]:
    """Persons' tracks in each minute of pts, counted from the published results alone."""
    tracks: dict[int, set[int]] = {}
    for result in results:
        seen = tracks.setdefault(int(result["pts"] // 60), set())
        seen |= {o["track"] for o in result["objects"] if o["label"] == "person"}
    return {minute: len(seen) for minute, seen in tracks.items()}


@dataclass(frozen=True)
class Together:
    """A run beside whose main path everything goes wrong that can, and what is right goes on."""

    reader: Reader
    err: str


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Together]:
    more = "".join(
        [
            side("PeoplePerMinute", "cache", name="people"),
            side("Alerts", "people", on_lag="drop", name="alerts"),
            side("PeoplePerMinute", "cache", name="near_people"),
            side("Alerts", "near_people", on_lag="drop", name="near_alerts"),
            side("Raises", "detect", name="raises"),
            side("Kills", "detect", 'source = "a"\nat = 5', name="kills"),
            side("BadEnd", "cache", name="bad_end"),
            side("Numbers", "detect", name="misfit"),
        ]
    )
    more += '[placement]\nboth = ["near_people", "near_alerts"]\n'
    folder = user_folder(tmp_path_factory.mktemp("together") / "user", more=more)
    footage.write_scene(folder / "slow.mkv", footage.steady(200, fps=1.0))
    footage.write_scene(folder / "uneven.mkv", UNEVEN)
    footage.write_scene(folder / "a.mp4", footage.steady(60))
    footage.write_scene(folder / "again.mp4", footage.steady(20))
    with server(folder / "server") as store:
        reader = Reader(store.url)
        reader.client.hset("fg:{a}:at:misfit", "s", msgpack.packb("another"))
        end = encode(End(VERSION, 0, last=True, fault="damaged: long ago"))
        reader.client.hset("fg:{again}:own", "epoch", 1)
        reader.client.xadd("fg:{again}:out:detect", {"k": "end", "d": end}, id="1-0")
        err = run(folder, store, "slow.mkv", "uneven.mkv", "a.mp4", "again.mp4", code=1)
        yield Together(reader, err)
        reader.close()


@pytest.mark.parametrize(("source", "count"), [("slow", 200), ("uneven", 10)])
def test_people_per_minute_beside_the_main_path(
    together: Together, source: str, count: int
) -> None:
    """Each entry carries the id of the one before, so that a reader knows what it missed."""
    results = together.reader.whole(source, count)
    entries = together.reader.entries(source, "out:people")
    said = [e["said"] for _, kind, e in entries if kind == "frame"]
    said += [e["said"]["people"] for _, kind, e in entries if kind == "end"]
    expected = people_by_hand(results)
    assert {s["minute"]: s["people"] for s in said} == expected
    assert len(said) == len(expected) > 2
    linked = [(i, e["before"]) for i, kind, e in entries if kind == "frame"]
    assert [before for _, before in linked] == ["0-0", *(i for i, _ in linked[:-1])]


@pytest.mark.parametrize("near", ["", "near_"], ids=["apart", "in_one_process"])
def test_a_stage_reads_what_a_stage_beside_the_main_path_says(
    together: Together, near: str
) -> None:
    """Each entry once, with the frame's own time, and the last words; frames of which nothing was
    said are not missed.
    """
    results = together.reader.whole("slow", 200)
    times = {f"{r['epoch']}-{r['seq']}": r["pts"] for r in results}
    people = together.reader.entries("slow", f"out:{near}people")
    told = [(i, {**e["said"], "pts": times[i]}) for i, kind, e in people if kind == "frame"]
    alerts_of = together.reader.entries("slow", f"out:{near}alerts")
    assert [(i, e["said"]) for i, kind, e in alerts_of if kind == "frame"] == told
    assert len(told) == 3
    [end] = [e for _, kind, e in alerts_of if kind == "end"]
    assert end["said"][f"{near}alerts"] == end["said"][f"{near}people"]
    assert together.reader.counters("slow").get(f"lagged:{near}alerts", 0) == 0


def test_what_goes_wrong_beside_the_main_path_harms_nothing(together: Together) -> None:
    """A stage that always raises, one that dies over a frame, one that has no last words, and one
    whose stored state no longer fits, which is given up.
    """
    reader = together.reader
    assert {r["outcome"] for r in reader.whole("a", 60)} == {"detected"}
    assert [kind for _, kind, _ in reader.entries("a", "out:raises")] == ["end"]
    asides = {(a["stage"], a["id"]) for a in reader.asides("a")}
    raised = {(b"raises", b"1-%d" % n) for n in range(60)}
    assert asides == raised | {(b"kills", b"1-5")}
    assert [kind for _, kind, _ in reader.entries("a", "out:bad_end")] == ["frame"] * 60 + ["end"]
    assert "stage bad_end fails at the end of source a" in together.err
    assert "the run continues without misfit" in together.err


def test_a_fault_of_an_earlier_run_is_not_this_ones(together: Together) -> None:
    """An end that the earlier run's stages did not come to read."""
    kinds = [kind for _, kind, _ in together.reader.entries("again", "results")]
    assert kinds == ["end", *["frame"] * 20, "end"]
    assert "long ago" not in together.err


def test_a_run_of_a_file_with_the_whole_graph_goes_on_with_a_short_one(
    folder: Path, store: EmbeddedStore, reader: Reader
) -> None:
    """A file of before files lay over the defaults, then one of five lines, in one data folder:
    each frame once. The new stage, which says nothing but its class, gets what is published, too.
    """
    footage.write_scene(folder / "slow.mkv", footage.steady(LONG))
    words = ("run", "slow.mkv", "--pace", "realtime", "-d", "data", "--store", store.url)
    with Command(folder, *words) as first:
        wait_until("some results", lambda: len(reader.results("slow")) >= 20)
        first.interrupt()
        assert first.wait().code == 0
    assert 20 <= len(reader.results("slow")) < LONG
    (folder / "pipeline.toml").write_text(
        '[stages.detect]\nuse = "user_stages:Crowd"\n\n'
        '[stages.numbers]\nuse = "user_stages:Numbers"\non_lag = "wait"\n',
        encoding="utf-8",
    )
    ended = framegate(folder, "run", "--resume", "-d", "data", "--store", store.url)
    assert ended.code == 0, ended.err
    reader.whole("slow", LONG)
    numbers = [i for i, kind, _ in reader.entries("slow", "out:numbers") if kind == "frame"]
    assert numbers == [f"1-{n}" for n in range(LONG)]


def test_a_stage_that_raises_on_the_main_path(
    folder: Path, store: EmbeddedStore, reader: Reader
) -> None:
    """Its frames are failed, with their bytes set aside; all others are what they would be."""
    user_folder(folder, main='use = "user_stages:Raises"\nevery = 7\nrest = 3\n')
    footage.write_scene(folder / "a.mp4", footage.steady(100))
    err = run(folder, store, "a.mp4")

    bad = [n for n in range(100) if n % 7 == 3]
    results = reader.whole("a", 100)
    assert [r["seq"] for r in results if r["outcome"] == "failed"] == bad
    for result in results:
        failed = result["seq"] in bad
        assert result["reason"] == ("stage_error" if failed else "every_frame")
        assert result["looked"] == ("no" if failed else "whole")
        people = [o for o in result["objects"] if o["label"] == "person"]
        assert len(people) == (0 if failed else result["seq"] % 3)
    assert reader.counters("a")["failed"] == len(bad)

    asides = reader.asides("a")
    assert [a["id"].decode() for a in asides] == [f"1-{n}" for n in bad]
    assert {(a["stage"], a["reason"]) for a in asides} == {(b"extra", b"stage_error")}
    records = [decode_record(a["d"]) for a in asides]
    assert [record.number for record in records] == bad
    assert all(msgpack.unpackb(r.said["detect"])["models"] == ["crowd@0"] for r in records)
    assert "no answer to frame 3" in err


@pytest.mark.parametrize(
    "use", ["Short", *(pytest.param(u, marks=pytest.mark.long) for u in ("Unsayable", "Silent"))]
)
def test_a_stage_that_breaks_its_contract_fails_frame_by_frame(
    folder: Path, store: EmbeddedStore, reader: Reader, use: str
) -> None:
    """Too few outputs, or one that no message can hold: an error like any other."""
    user_folder(folder, main=f'use = "user_stages:{use}"')
    footage.write_scene(folder / "a.mp4", footage.steady(20))
    run(folder, store, "a.mp4")
    outcomes = {r["reason"] for r in reader.whole("a", 20)}
    assert outcomes == {"stage_error"}


def test_a_stage_beside_the_configuration_is_found_from_another_folder(
    folder: Path, store: EmbeddedStore, reader: Reader, tmp_path: Path
) -> None:
    """The command finds its module, and so do the three workers that share the stages."""
    user_folder(folder, main='use = "user_stages:PassOn"', apart=True)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    footage.write_scene(elsewhere / "a.mp4", footage.steady(9))
    words = ("run", "a.mp4", "-c", "../user/pipeline.toml", "-d", "data", "--store", store.url)
    ended = framegate(elsewhere, *words)
    assert ended.code == 0, ended.err
    assert {result["outcome"] for result in reader.whole("a", 9)} == {"detected"}


@pytest.mark.parametrize("use", ["BadState", "OtherState"])
def test_a_state_that_cannot_be_stored_ends_the_run_with_a_word(folder: Path, use: str) -> None:
    user_folder(folder, main=f'use = "user_stages:{use}"')
    footage.write_scene(folder / "a.mp4", footage.steady(20))
    ended = framegate(folder, "run", "a.mp4", "-d", "data")
    assert ended.code == 2
    assert "stage extra: its state cannot be stored" in ended.err


def test_a_published_output_that_is_no_result_ends_the_run_with_a_word(folder: Path) -> None:
    config = '[stages.cache]\nuse = "user_stages:BadResult"\n'
    (folder / "pipeline.toml").write_text(config, encoding="utf-8")
    footage.write_scene(folder / "a.mp4", footage.steady(20))
    ended = framegate(folder, "run", "a.mp4", "-d", "data")
    assert ended.code == 2
    assert "stage cache: it publishes results (publishes = True), and returned" in ended.err
    assert "Traceback" not in ended.err


def test_a_run_without_a_side_stage_that_failed_exits_with_1(folder: Path) -> None:
    user_folder(folder, more=side("OtherState", "detect"))
    footage.write_scene(folder / "a.mp4", footage.steady(20))
    ended = framegate(folder, "run", "a.mp4", "-d", "data")
    assert "the run continues without side" in ended.err
    assert ended.code == 1


@pytest.mark.long  # it has to die again and again, with pauses
def test_a_side_stage_that_cannot_live_is_given_up(
    folder: Path, store: EmbeddedStore, reader: Reader
) -> None:
    """It, and what reads from it; the decoder waits for them no longer."""
    more = side("Crashes", "detect") + '[stages.after]\nuse = "user_stages:Numbers"\n'
    user_folder(folder, more=f'{more}input = "side"\n')
    footage.write_scene(folder / "a.mp4", footage.steady(200))
    err = run(folder, store, "a.mp4", code=1)
    reader.whole("a", 200)
    assert "worker side: it ended 10 times in a row without progress (last: exit code 7)" in err
    assert "the run continues without side, after" in err


@pytest.mark.long  # it has to die again and again, with pauses
def test_a_main_stage_that_cannot_live_ends_the_run(folder: Path) -> None:
    user_folder(folder, main='use = "user_stages:Crashes"', apart=True)
    footage.write_scene(folder / "a.mp4", footage.steady(20))
    ended = framegate(folder, "run", "a.mp4", "-d", "data")
    assert ended.code == 1
    assert "worker extra: it ended 10 times in a row without progress" in ended.err


def test_a_stored_state_that_no_longer_fits_ends_the_run_with_a_word(
    folder: Path, store: EmbeddedStore, reader: Reader
) -> None:
    user_folder(folder, main='use = "user_stages:PassOn"', apart=True)
    reader.client.hset("fg:{a}:at:extra", "s", msgpack.packb("another"))
    footage.write_scene(folder / "a.mp4", footage.steady(20))
    ended = framegate(folder, "run", "a.mp4", "-d", "data", "--store", store.url)
    assert ended.code == 2
    assert "the state in the store does not fit the stages extra" in ended.err


def test_a_side_stage_that_the_others_wait_for_sees_every_frame(
    folder: Path, store: EmbeddedStore, reader: Reader
) -> None:
    """Though it begins late: the decoder goes no further ahead than its credit."""
    user_folder(folder, more=side("Gated", "detect", 'gate = "gate"') + PATIENT)
    footage.write_scene(folder / "a.mp4", footage.steady(300))
    words = ("run", "a.mp4", "-d", "data", "--store", store.url)
    with Command(folder, *words) as command:
        wait_until("the credit is used up", lambda: len(reader.entries("a", "results")) == 32)
        assert reader.counters("a")["decoded"] == 32
        (folder / "gate").touch()
        ended = command.wait()
    assert ended.code == 0, ended.err
    reader.whole("a", 300)
    assert saw(reader) == list(range(300))
    assert "lagged:side" not in reader.counters("a")


def test_a_slow_side_stage_counts_what_it_missed(
    folder: Path, store: EmbeddedStore, reader: Reader
) -> None:
    """It begins when all is published: of what it reads, only the rest is still there."""
    user_folder(folder, more=side("Gated", "detect", 'gate = "gate"', on_lag="drop") + PATIENT)
    footage.write_scene(folder / "a.mp4", footage.steady(600))
    words = ("run", "a.mp4", "-d", "data", "--store", store.url)
    with Command(folder, *words) as command:
        wait_until("all is published", lambda: reader.counters("a").get("published") == 600)
        (folder / "gate").touch()
        ended = command.wait()
    assert ended.code == 0, ended.err
    reader.whole("a", 600)
    seen = saw(reader)
    lagged = reader.counters("a").get("lagged:side", 0)
    assert len(seen) + lagged == 600, ended.err
    assert lagged > 0, ended.err
    assert seen == sorted(set(seen))


def saw(reader: Reader) -> list[int]:
    """The frame numbers that the side stage said."""
    return [said["said"] for _, kind, said in reader.entries("a", "out:side") if kind == "frame"]
