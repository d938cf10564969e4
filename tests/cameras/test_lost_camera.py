"""A camera that is cut and stays away: what time alone changes is told while no frame comes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from framegate.pipeline import keys, records
from framegate.pipeline.episodes import Change, Changes
from framegate.pipeline.records import End
from tests.support.cameras.scripted import ScriptedCamera, Step, paced
from tests.support.cameras.watched import WatchedRun

RULE = """
[live]
retry_most_s = 0.2
[events.rules.gone]
when = "state"
state = "lost"
for_s = 2
"""


def test_a_rule_about_a_lost_camera_is_told_while_it_is_lost(tmp_path: Path) -> None:
    connections = iter([paced(20, 10)])

    def once() -> Iterator[Step]:
        steps = next(connections, iter(()))
        yield from ((said, 0.0 if pause > 1 else pause) for said, pause in steps)  # and is closed

    with (
        ScriptedCamera(once) as camera,
        closing(WatchedRun(tmp_path / "user", {"gate": camera.url}, RULE)) as run,
    ):

        def ends(stream: str) -> list[End]:
            entries = run.reader.client.xrange(f"fg:{{gate}}:{stream}")
            said = [fields for _, fields in entries if fields[b"k"] == b"end"]
            return [records.decode(fields[b"d"], End) for fields in said]

        def told() -> list[Change]:
            said = [end.said[keys.EVENTS] for end in ends("out:events") if keys.EVENTS in end.said]
            return [change for one in said for change in records.decode(one, Changes).changes]

        run.until("the rule is told", told)
        [start] = told()
        assert (start.step, start.rule, start.began.epoch) == ("start", "gone", 1)
        assert start.seconds >= 2
        assert {end.frames for end in ends("results")} == {20}
        run.check_accounts()
