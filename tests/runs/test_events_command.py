"""`framegate events`: what a stage `events` said in a run, shown while it goes on and after it."""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from tests.support import footage
from tests.support.commands import Command, Ended, framegate, user_folder
from tests.support.runs import wait_until

pytestmark = pytest.mark.whole_run

RULES = '[stages.events]\nuse = "user_stages:Visits"\ninput = "cache"\non_lag = "wait"\n'
FRAMES = 15


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = user_folder(tmp_path_factory.mktemp("user"), more=RULES)
    footage.write_scene(made / "door.mp4", footage.steady(FRAMES))
    footage.write_scene(made / "yard.mp4", footage.steady(9))
    (made / "data").mkdir(mode=0o755)
    ended = framegate(made, "run", "door.mp4", "yard.mp4", "-d", "data", "--http", "off")
    assert ended.code == 0, ended.err
    return made


def events(folder: Path, *words: str, code: int = 0) -> Ended:
    ended = framegate(folder, "events", *words)
    assert ended.code == code, ended.err
    return ended


def listed(folder: Path, *words: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in events(folder, *words, "--json").out.splitlines()]


def test_each_episode_is_there_once_with_its_end(folder: Path) -> None:
    found = listed(folder, "-d", "data")
    assert sorted((e["source"], e["began"]["seq"], e["last"]["seq"]) for e in found) == [
        ("door", 0, 2), ("door", 4, 6), ("door", 8, 10), ("door", 12, 14),
        ("yard", 0, 2), ("yard", 4, 6), ("yard", 8, 8),
    ]  # fmt: skip
    assert {e["ended_by"] for e in found} == {"over"}
    files = [file.name for file in (folder / "data").glob("events.db*")]
    assert files == ["events.db"], "a reader leaves nothing there"
    began = [e["began"]["captured"] for e in found]
    assert began == sorted(began), "the newest last"
    door = listed(folder, "-d", "data", "--source", "door", "--limit", "2")
    assert [e["began"]["seq"] for e in door] == [8, 12]
    at = repr(door[0]["last"]["captured"])
    assert door[0] in listed(folder, "-d", "data", "--source", "door", "--at", at)


def test_no_other_user_can_read_results_or_episodes(folder: Path) -> None:
    """Even in a data folder that its owner lets others read."""
    data = folder / "data"
    assert data.stat().st_mode & 0o777 == 0o755
    readable = {
        path.name for path in data.iterdir() if path.stat().st_mode & 0o044 and path.is_file()
    }
    assert readable <= {"precision.json"}
    for name in ("store", "state"):
        assert not (data / name).exists() or (data / name).stat().st_mode & 0o777 == 0o700
    assert (data / "events.db").stat().st_mode & 0o777 == 0o600


def test_people_get_a_table_that_fits_and_sql_what_it_asks_for(folder: Path) -> None:
    lines = events(folder, "-d", "data", "--source", "yard").out.splitlines()
    assert lines[0].split() == ["time", "source", "rule", "what", "lasted", "how"]
    assert lines[2].split()[1:] == ["yard", "visitor", "-", "0.0", "s", "over"]
    assert max(map(len, lines)) <= 80
    sql = "select source, count(*) as n from episode group by 1 order by 1"
    assert events(folder, "-d", "data", "--sql", sql).out == "source\tn\ndoor\t4\nyard\t3\n"


def test_what_cannot_be_asked_says_why(folder: Path) -> None:
    for words, says in (
        (("-d", "data", "--since", "1-20"), "--since must be a time "),
        (("-d", "data", "--sql", "drop table episode"), "--sql: the statement does more than read"),
        (("-d", "nowhere"), "nowhere/events.db: no such file"),
        (("-d", "data", "--store", "redis://localhost"), "give --store or -d, not both"),
    ):
        assert says in events(folder, *words, code=2).err
    assert "there are no such episodes" in events(folder, "-d", "data", "--rule", "gate").err
    typo = events(folder, "-d", "data", "--rule", "visiter").err
    assert "there are no such episodes; did you mean visitor?" in typo


def test_what_was_removed_before_it_was_read_is_said(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "data", tmp_path / "data", ignore=shutil.ignore_patterns("*.sock"))
    with contextlib.closing(sqlite3.connect(tmp_path / "data/events.db")) as database:
        database.execute("INSERT INTO lost VALUES ('door', 'events', '1-3', '1-9')")
        database.commit()
    said = events(tmp_path, "-d", "data", "--limit", "1").err
    assert "source door: output of the stage events after 1-3 and before 1-9 was removed" in said


def test_a_killed_run_is_read_on_once_it_is_resumed(folder: Path) -> None:
    footage.write_scene(folder / "long.mp4", footage.steady(400))
    words = ("run", "long.mp4", "-d", "killed", "--http", "off")
    with Command(folder, *words, "--pace", "realtime") as run:
        run.says("running")
        wait_until("an episode", lambda: _count(folder / "killed/events.db") > 0)
        run.kill()
    ended = framegate(folder, "run", "-d", "killed", "--resume", "--http", "off", "--pace", "fast")
    assert ended.code == 0, ended.err
    found = listed(folder, "-d", "killed")
    assert [e["began"]["seq"] for e in found] == list(range(0, 400, 4))
    assert all(e["ended_by"] == "over" for e in found)


def _count(file: Path) -> int:
    with (
        contextlib.suppress(sqlite3.OperationalError),  # it is not there yet, or being made
        contextlib.closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as database,
    ):
        return int(database.execute("SELECT count(*) FROM episode").fetchone()[0])
    return 0


def test_they_are_written_for_others_as_parquet(folder: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs the extra parquet")
    words = ("export", "-d", "data", "--parquet", "door.parquet", "--source", "door")
    assert events(folder, *words).out == "door.parquet\n"
    table = parquet.read_table(folder / "door.parquet").to_pydict()
    found = listed(folder, "-d", "data", "--source", "door")
    assert table["id"] == [e["id"] for e in found]
    assert table["last_seq"] == [e["last"]["seq"] for e in found]
    assert table["verdict"] == [None] * len(found)
    assert "door.parquet already exists" in events(folder, *words, code=2).err
