"""`[events]` in a run: told as from results alone, whatever is killed."""

from __future__ import annotations

import os
import signal
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis

from framegate.pipeline.config.config import read_config
from framegate.pipeline.contracts import keys
from framegate.pipeline.contracts.episodes import Change, Changes
from framegate.pipeline.contracts.likeness import NAMES, Likeness
from framegate.pipeline.contracts.moments import Moment
from framegate.pipeline.contracts.records import Position
from framegate.pipeline.store.embedded import EmbeddedStore
from framegate.stages.events.replay import replay
from tests.support import footage
from tests.support.asked import workers
from tests.support.commands import Command, framegate
from tests.support.episodes import WALK, check, rules, stored_changes
from tests.support.footage import Track
from tests.support.runs import published_in, said, wait_until

pytestmark = pytest.mark.whole_run

DONE = 0
# Visits that move to the right.
RIGHTWARDS = Likeness(tuple(10.0 if name == "heading_x" else 0.0 for name in NAMES), 0.0, (5, 0))
EVENTS = f"""
[events.areas.middle]
points = [[0.3, 0.0], [0.7, 0.0], [0.7, 1.0], [0.3, 1.0]]
[events.lines.gate]
points = [[0.5, 0.0], [0.5, 1.0]]
[events.rules.visitor]
when = "inside"
area = "middle"
update_s = 1
[events.rules.people]
when = "crosses"
line = "gate"
[events.rules.empty]
when = "count"
area = "middle"
at_most = 0
for_s = 1
[events.rules.rightwards]
when = "like"
like = "{RIGHTWARDS.text()}"
"""
MUTED = """
[filters.from_the_right]
sources = ["door"]
rule = "visitor"
weights = [0.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 0.0, 0.0]
"""
FILTERS = read_config("pipeline.toml", MUTED).filters
CONFIG = (
    EVENTS
    + MUTED
    + """
[stages.walk]
use = "walk:Walk"
input = "decode"
[stages.windows]
input = "walk"
[stages.cache]
input = "windows"
"""
)


def user_folder(made: Path) -> Path:
    made.mkdir()
    footage.write_scene(made / "door.mkv", footage.steady(500))
    (made / "walk.py").write_text(WALK, encoding="utf-8")
    (made / "pipeline.toml").write_text(CONFIG, encoding="utf-8")
    return made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return user_folder(tmp_path / "user")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the data folders of two runs: `on`, and `off` without rules. Read-only."""
    folder = user_folder(tmp_path_factory.mktemp("undisturbed") / "user")
    assert framegate(folder, "run", "door.mkv", "-d", "on").code == DONE
    (folder / "pipeline.toml").write_text(CONFIG.removeprefix(EVENTS + MUTED), encoding="utf-8")
    assert framegate(folder, "run", "door.mkv", "-d", "off").code == DONE
    return folder


def timeless(changes: Changes) -> Changes:
    """Without what the clock said as a file's frame came."""

    def moment(one: Moment) -> Moment:
        return msgspec.structs.replace(one, captured=0.0)

    return msgspec.structs.replace(
        changes,
        changes=tuple(
            msgspec.structs.replace(
                one, told=moment(one.told), began=moment(one.began), last=moment(one.last)
            )
            for one in changes.changes
        ),
    )


def bytes_of(entries: list[tuple[Position, Changes]]) -> list[tuple[Position, bytes]]:
    return [(at, msgspec.msgpack.encode(timeless(changes))) for at, changes in entries]


def stored_visits(folder: Path) -> dict[str, dict[str, Any]]:
    """The table of visits, by id, without what the clock said as a file's frames came."""
    with closing(sqlite3.connect(folder / "events.db")) as database:
        database.row_factory = sqlite3.Row
        rows = [dict(row) for row in database.execute("SELECT * FROM visits ORDER BY id")]
    clock = {"began_captured", "last_captured", "kept"}
    visits = {row["id"]: {key: row[key] for key in row.keys() - clock} for row in rows}
    assert len(visits) == len(rows), "each visit once"
    return visits


def test_a_run_tells_what_its_results_tell_and_serves_what_it_would_without(
    undisturbed: Path,
) -> None:
    on = published_in(undisturbed / "on", ["door"])["door"].results
    off = published_in(undisturbed / "off", ["door"])["door"].results
    assert said(on) == said(off)
    assert stored_changes(undisturbed / "off", "door") == []
    assert len(stored_visits(undisturbed / "on")) > 4
    assert stored_visits(undisturbed / "off") == stored_visits(undisturbed / "on")
    stored = stored_changes(undisturbed / "on", "door")
    changes = [one for _, each in stored for one in each.changes]
    check(changes)
    assert {one.direction for one in changes if one.rule == "people"} == {"in", "out"}
    muted = {(one.rule, one.muted and one.muted.partition("/")[0]) for one in changes}
    assert muted == {
        ("visitor", "from_the_right"), ("visitor", None), ("people", None), ("empty", None),
        ("rightwards", None),
    }  # fmt: skip
    alike = [one.tracks[0] for one in changes if (one.rule, one.step) == ("rightwards", "start")]
    assert alike == [1, 3, 5, 7], "each walk from the left, once"
    assert [one.ended_by for one in changes if one.step == "end"][-1] == "source_ended"
    again = [(at, each) for _, at, each in replay(rules(EVENTS), on, FILTERS)]
    assert again == stored[: len(again)], "from stored results: the same, to the byte"
    assert len(stored) - len(again) == 1, "the end of the file is told with its end"


def test_a_new_rule_is_tried_over_old_results(undisturbed: Path) -> None:
    """The run had none; the command tells what it would have, and leaves the folder as it is."""
    folder = undisturbed
    (folder / "new.toml").write_text(EVENTS + MUTED, encoding="utf-8")
    tried = framegate(folder, "events", "replay", "--rules", "new.toml", "-d", "off", "--json")
    assert tried.code == DONE, tried.err
    changes = [msgspec.json.decode(line, type=Change) for line in tried.out.splitlines()]
    check(changes)
    results = published_in(folder / "off", ["door"])["door"].results
    again = [one for _, _, each in replay(rules(EVENTS), results, FILTERS) for one in each.changes]
    assert changes[: len(again)] == again
    last = changes[len(again) :]
    assert {one.ended_by for one in last if one.rule != "rightwards"} == {"source_ended"}
    alike = [one.tracks[0] for one in last if (one.rule, one.step) == ("rightwards", "start")]
    assert alike == [5, 7], "their visits end with the file"
    (folder / "new.toml").write_text(HEARD + EVENTS, encoding="utf-8")
    shown = framegate(folder, "events", "replay", "--rules", "new.toml", "-d", "off")
    assert "rule beep: these results contain no sounds" in shown.err
    crossings = sum(one.rule == "people" and one.step == "start" for one in changes)
    assert f"door: people: {crossings} episodes" in shown.out
    assert max(map(len, shown.out.splitlines())) <= 80
    assert stored_changes(folder / "off", "door") == []
    wrong = framegate(folder, "events", "replay", "--rules", "new.toml", "--rule", "peple")
    assert "there is no such rule; did you mean people?" in wrong.err
    none = framegate(folder, "events", "replay", "-d", "off")
    assert "the file has no [events.rules]" in none.err


def test_killed_in_mid_episode_it_tells_the_same(folder: Path, undisturbed: Path) -> None:
    with Command(folder, "run", "door.mkv", "-d", "killed", "--pace", "realtime") as run:
        for kills in range(1, 4):
            wait_until(
                "more is told",
                lambda least=kills * 5: _told(folder / "killed") >= least,
            )
            os.kill(workers(run.process.pid)["shard-1"], signal.SIGKILL)
        ended = run.wait()
    assert ended.code == DONE, ended.err
    assert ended.err.count("worker shard-1 ended (signal 9)") == 3
    killed = stored_changes(folder / "killed", "door")
    check(one for _, each in killed for one in each.changes)
    assert bytes_of(killed) == bytes_of(stored_changes(undisturbed / "on", "door"))
    assert stored_visits(folder / "killed") == stored_visits(undisturbed / "on")


HEARD = """
[sound]
sources = true
labels = ["Beep, bleep"]
[events.rules.beep]
when = "state"
state = "heard"
labels = ["Beep, bleep"]
gap_s = 1
[events.rules.answer]
when = "inside"
area = "middle"
after = { rule = "beep", within_s = 2 }
"""


def test_a_beep_then_somebody_inside_whoever_is_killed(folder: Path) -> None:
    """Sound and pictures are judged in one order; results have what was heard."""
    beeps = Track("aac", 44100, (3100.0, 3100.0), begins=(0.0, 10.0), seconds=1.0)
    footage.write_sounding(folder / "door.mp4", beeps, pts_s=footage.steady(400))
    (folder / "pipeline.toml").write_text(HEARD + CONFIG, encoding="utf-8")
    assert framegate(folder, "run", "door.mp4", "-d", "whole").code == DONE
    undisturbed = stored_changes(folder / "whole", "door")
    changes = [one for _, each in undisturbed for one in each.changes]
    check(changes)
    beep = [one for one in changes if (one.rule, one.step) == ("beep", "start")]
    assert [one.began.media_s // 10 for one in beep] == [0, 1], [one.began for one in beep]
    assert {one.label for one in beep} == {"Beep, bleep"}
    answers = [one for one in changes if (one.rule, one.step) == ("answer", "start")]
    visits = [one for one in changes if (one.rule, one.step) == ("visitor", "start")]
    assert 0 < len(answers) < len(visits)
    for one in answers:
        assert any(0 <= one.began.media_s - two.began.media_s <= 4 for two in beep)
    results = published_in(folder / "whole", ["door"])["door"].results
    again = [(at, each) for _, at, each in replay(rules(HEARD + EVENTS), results, FILTERS)]
    assert again == undisturbed[: len(again)], "from stored results: the same, to the byte"
    heard = framegate(folder, "results", "-d", "whole", "--stage", "sound", "--json")
    assert len(heard.out.splitlines()) == sum(one.sounds is not None for one in results) > 3
    with Command(folder, "run", "door.mp4", "-d", "killed", "--pace", "realtime") as run:
        for kills in (1, 2):
            wait_until("more is told", lambda least=kills * 4: _told(folder / "killed") >= least)
            os.kill(workers(run.process.pid)["shard-1"], signal.SIGKILL)
        ended = run.wait()
    assert ended.code == DONE, ended.err
    assert bytes_of(stored_changes(folder / "killed", "door")) == bytes_of(undisturbed)


def _told(folder: Path) -> int:
    """Entries of the stage so far."""
    with redis.Redis.from_url(EmbeddedStore(folder / "store", "everysec").url) as store:
        return store.xlen(keys.out("door", keys.EVENTS))


def test_all_is_killed_in_mid_episode_and_resumed(folder: Path, undisturbed: Path) -> None:
    with Command(folder, "run", "door.mkv", "-d", "killed", "--pace", "realtime") as run:
        wait_until("something is told", lambda: _told(folder / "killed") >= 7)
        run.kill()
    resumed = framegate(folder, "run", "--resume", "-d", "killed")
    assert resumed.code == DONE, resumed.err
    killed = stored_changes(folder / "killed", "door")
    check(one for _, each in killed for one in each.changes)
    assert bytes_of(killed) == bytes_of(stored_changes(undisturbed / "on", "door"))
    assert stored_visits(folder / "killed") == stored_visits(undisturbed / "on")
