"""`framegate results`: the results that `run --json` printed, in every form, to whoever reads."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from framegate.pipeline.client.when import moment
from framegate.pipeline.contracts.result_exports import COLUMNS
from framegate.pipeline.run.ended import open_store
from framegate.pipeline.store.admin import StoreAdmin
from framegate.pipeline.telemetry.counters import objects_of
from tests.support import footage
from tests.support.commands import Ended, framegate, user_folder
from tests.support.runs import DEADLINE_S, environment

pytestmark = pytest.mark.whole_run

FRAMES = 60
NUMBERS = """
[stages.numbers]
use = "user_stages:Numbers"
input = "cache"
on_lag = "wait"
[stages.people]
use = "user_stages:PeoplePerMinute"
input = "cache"
on_lag = "wait"
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return user_folder(tmp_path_factory.mktemp("user"), more=NUMBERS)


@pytest.fixture(scope="module")
def printed(folder: Path) -> list[dict[str, Any]]:
    """What a run of two clips printed."""
    footage.write_scene(folder / "door.mp4", footage.steady(FRAMES))
    footage.write_scene(folder / "yard.mp4", footage.steady(10))
    ended = framegate(
        folder, "run", "door.mp4", "yard.mp4", "-d", "data", "--json", "--http", "off"
    )
    assert ended.code == 0, ended.err
    return [json.loads(line) for line in ended.out.splitlines()]


def results(folder: Path, *words: str) -> Ended:
    ended = framegate(folder, "results", "-d", "data", *words)
    assert ended.code == 0, ended.err
    return ended


def of(printed: list[dict[str, Any]], source: str) -> list[dict[str, Any]]:
    return [result for result in printed if result["source"] == source]


def test_json_is_what_the_run_printed(folder: Path, printed: list[dict[str, Any]]) -> None:
    read = results(folder, "--json")
    for source, count in {"door": FRAMES, "yard": 10}.items():
        assert len(read.results(source)) == count
        assert read.results(source) == of(printed, source)
    assert results(folder, "--json", "--source", "yard").results("door") == []


def test_each_track_is_counted_once(folder: Path, printed: list[dict[str, Any]]) -> None:
    """Tracks whose numbers grow: the car of these clips has one far above, and comes first. Some
    are settled by results, the last ones by the end.
    """
    for source in ("door", "yard"):
        first: dict[int, str] = {}
        for result in of(printed, source):
            for one in result["objects"]:
                if one["label"] == "car" or not first:
                    first.setdefault(one["track"], one["label"])
        with open_store(folder / "data") as opened:
            store = StoreAdmin(opened.url)
            counted = objects_of(store.counters(source))
            store.close()
        settled = [one for result in of(printed, source) for one in result.get("settled", [])]
        assert all(first[one["track"]] == one["label"] for one in settled)
        assert 0 < len({one["track"] for one in settled}) == len(settled) <= len(first)
        assert counted == Counter(first.values())


def test_a_span_of_positions_and_of_times(folder: Path, printed: list[dict[str, Any]]) -> None:
    door = of(printed, "door")
    read = results(folder, "--json", "--source", "door", "--from", "1-10", "--to", "1-12")
    assert read.results("door") == door[10:13]
    since = repr(door[-1]["captured"])
    late = results(folder, "--json", "--source", "door", "--from", since).results("door")
    assert late
    assert late == [r for r in door if r["captured"] >= float(since)]
    none = results(folder, "--from", "2001-01-01", "--to", "2001-01-02T10:30")
    assert (none.out, none.err) == ("", "framegate: the store has no such results\n")


def test_csv_is_an_object_a_row(folder: Path, printed: list[dict[str, Any]]) -> None:
    rows = list(csv.DictReader(io.StringIO(results(folder, "--csv").out)))
    assert list(rows[0]) == [name for name, _ in COLUMNS]
    assert len(rows) == sum(len(result["objects"]) for result in printed)
    last = of(printed, "door")[-1]
    (found,) = [
        row
        for row in rows
        if (row["source"], row["seq"], row["label"]) == ("door", str(last["seq"]), "car")
    ]
    car = next(one for one in last["objects"] if one["label"] == "car")
    assert [float(found[edge]) for edge in ("x1", "y1", "x2", "y2")] == car["box"]
    assert (float(found["captured"]), int(found["track"])) == (last["captured"], car["track"])


@pytest.mark.usefixtures("printed")
def test_people_get_a_line_a_frame(folder: Path) -> None:
    lines = results(folder, "--source", "door", "--to", "1-2").out.splitlines()
    assert lines[0].split() == ["time", "source", "frame", "how", "objects"]
    assert lines[1].startswith("-- 20")
    frames = [line.split(None, 4)[1:] for line in lines[2:]]
    assert [frame[:3] for frame in frames] == [["door", f"1-{n}", "detected"] for n in range(3)]
    assert frames[1][3] == "person #1 0.90, car #7000000 0.90"


@pytest.mark.usefixtures("printed")
def test_what_a_stage_gave(folder: Path) -> None:
    lines = results(folder, "--stage", "numbers", "--source", "yard", "--json").out.splitlines()
    assert [json.loads(line)["output"] for line in lines] == list(range(10))
    told = results(folder, "--stage", "numbers", "--source", "yard", "--to", "1-0").out
    assert told.splitlines()[-1].split()[-2:] == ["numbers", "0"]
    head, last = results(folder, "--stage", "people", "--source", "yard").out.splitlines()
    assert head.split()[0] == "time"
    assert last.split()[:4] == ["end", "yard", "1-10", "people"], "it has no time"


@pytest.mark.parametrize(("stage", "warned"), [("decode", True), ("detect", False)])
@pytest.mark.usefixtures("printed")
def test_who_asks_for_what_is_passed_on_is_told_that_it_may_not_be_stored(
    folder: Path, stage: str, warned: bool
) -> None:
    told = results(folder, "--stage", stage, "--json").err
    assert ("stored only if a stage of another worker reads it" in told) == warned


def test_parquet_is_the_same_as_csv(folder: Path, printed: list[dict[str, Any]]) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow (the extra parquet)")
    written = results(folder, "--parquet", "objects.parquet")
    assert written.out == "objects.parquet\n"
    table = parquet.read_table(folder / "objects.parquet")
    assert table.column_names == [name for name, _ in COLUMNS]
    assert table.num_rows == sum(len(result["objects"]) for result in printed)
    again = framegate(folder, "results", "-d", "data", "--parquet", "objects.parquet")
    assert (again.code, "already exists" in again.err) == (2, True)


@pytest.mark.usefixtures("printed")
@pytest.mark.parametrize("form", ["--json", "--csv"])
def test_who_has_seen_enough_may_close_the_pipe(folder: Path, form: str) -> None:
    command = [sys.executable, "-m", "framegate.cli", "results", "-d", "data", form]
    command += ["--stage", "numbers"] if form == "--json" else []
    with subprocess.Popen(command, stdout=-1, stderr=-1, env=environment(), cwd=folder) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(DEADLINE_S) == 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--from", "yesterday"), "--from must be a time (2026-11-27T10:30, "),
        (("--source", "gate"), "no source gate; there are: door, yard"),
        (("--follow", "--to", "1-5"), "give --follow or --to, not both"),
        (("--stage", "numbers", "--csv"), "--stage: the output of a stage has no columns"),
        (("--store", "redis://localhost"), "give --store or -d, not both"),
        (("--parquet", "none/x.parquet"), "--parquet "),
    ],
)
@pytest.mark.usefixtures("printed")
def test_what_cannot_be_is_said(folder: Path, words: tuple[str, ...], says: str) -> None:
    ended = framegate(folder, "results", "-d", "data", *words)
    assert ended.code == 2
    assert says in ended.err


def test_moments_are_what_people_write() -> None:
    now = 1_795_000_000.0
    assert moment("1-250", now) == (1, 250)
    assert moment("15m", now) == now - 900
    assert moment("1.5h", now) == now - 5400
    assert moment("1795000001.25", now) == 1795000001.25
    assert moment("2026-11-17T00:26:40Z", now) == 1_794_875_200
    assert moment("2026-11-17T01:26:40+01:00", now) == 1_794_875_200
    for odd in ("", "now", "5", "1-", "10:99", "15 m"):
        with pytest.raises(ValueError, match="must be a time"):
            moment(odd, now)
