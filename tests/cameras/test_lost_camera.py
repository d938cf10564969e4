"""A camera that is cut, or never comes: what time alone changes is told while no frame comes."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from framegate.pipeline.contracts import keys, records
from framegate.pipeline.contracts.episodes import Change, Changes, read_events
from framegate.pipeline.contracts.records import START, End
from tests.support.cameras.scripted import ScriptedCamera, Step, paced
from tests.support.cameras.watched import WatchedRun

pytestmark = pytest.mark.whole_run

RULE = """
[live]
retry_most_s = 0.2
[events.rules.gone]
when = "state"
state = "lost"
for_s = 2
"""


def ends(run: WatchedRun, stream: str) -> list[End]:
    entries = run.reader.client.xrange(f"fg:{{gate}}:{stream}")
    said = [fields for _, fields in entries if fields[b"k"] == b"end"]
    return [records.decode(fields[b"d"], End) for fields in said]


def told(run: WatchedRun) -> list[Change]:
    """What is told in ends: while the camera is away."""
    said = [end.said[keys.EVENTS] for end in ends(run, "out:events") if keys.EVENTS in end.said]
    return [change for one in said for change in records.decode(one, Changes).changes]


def ended(run: WatchedRun) -> list[Change]:
    entries = run.reader.client.xrange("fg:{gate}:out:events")
    said = [read_events("gate", START, f[b"d"]) for _, f in entries if f[b"k"] == b"frame"]
    return [one for each in said for one in each.changes.changes if one.step == "end"]


def test_a_rule_about_a_lost_camera_is_told_while_it_is_lost(tmp_path: Path) -> None:
    connections = iter([paced(20, 10)])

    def once() -> Iterator[Step]:
        steps = next(connections, iter(()))
        yield from ((said, 0.0 if pause > 1 else pause) for said, pause in steps)  # and is closed

    with (
        ScriptedCamera(once) as camera,
        closing(WatchedRun(tmp_path / "user", {"gate": camera.url}, RULE)) as run,
    ):
        run.until("the rule is told", lambda: told(run))
        [start] = told(run)
        assert (start.step, start.rule, start.began.epoch) == ("start", "gone", 1)
        assert start.seconds >= 2
        assert {end.frames for end in ends(run, "results")} == {20}
        run.check_accounts()


def test_a_camera_that_never_came_is_lost_and_comes_in_the_end(tmp_path: Path) -> None:
    may_come = threading.Event()

    def late() -> Iterator[Step]:
        if may_come.is_set():
            yield from paced(40, 10)

    began = time.time()
    with (
        ScriptedCamera(late) as camera,
        closing(WatchedRun(tmp_path / "user", {"gate": camera.url}, RULE)) as run,
    ):
        run.until("the rule is told", lambda: told(run))
        [start] = told(run)
        assert (start.step, start.rule, start.seconds >= 2) == ("start", "gone", True)
        assert start.began.captured == pytest.approx(time.time(), abs=time.time() - began + 5)
        assert {end.frames for end in ends(run, "results")} == {0}
        may_come.set()
        run.until("it is there", lambda: run.results("gate"))
        run.until("the episode is over", lambda: len(ended(run)) == 1)
        [over] = ended(run)
        assert (over.episode, over.seconds >= start.seconds) == (start.episode, True)
        assert {one["epoch"] for one in run.results("gate")} == {start.began.epoch + 1}
        run.check_accounts()
