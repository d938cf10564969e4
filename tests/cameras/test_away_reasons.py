"""Cameras that go away in different ways: the time without frames is listed with the reason."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from urllib.parse import quote

import pytest

from framegate.pipeline.contracts import records
from framegate.pipeline.contracts.records import End
from tests.support.cameras.scripted import ScriptedCamera, Step, paced
from tests.support.cameras.watched import SECRET, USER, WatchedRun
from tests.support.commands import framegate

pytestmark = pytest.mark.whole_run

MORE = """
[live]
retry_most_s = 0.2
stall_s = 2.0
[events.rules.gone]
when = "state"
state = "lost"
"""
REFUSED = b'HTTP/1.0 401 Unauthorized\r\nWWW-Authenticate: Basic realm="c"\r\n\r\n'
LOGIN = f"{USER}:{quote(SECRET)}@"
AWAY = ("locked", "never", "off", "still")


class Returning:
    """The steps of a camera that sends pictures, then goes away until it may return."""

    def __init__(self, away: Callable[[], Iterator[Step]], starts: bool = True) -> None:
        self.may_return = threading.Event()
        self._sends = starts
        self._away = away

    def __call__(self) -> Iterator[Step]:
        if self.may_return.is_set():
            yield from paced(1000, 10)
        elif self._sends:
            self._sends = False
            yield from ((sent, 0.0 if pause > 1 else pause) for sent, pause in paced(20, 10))
        yield from self._away()


def refused() -> Iterator[Step]:
    yield REFUSED, 0.0


class Stalling:
    """The steps of a camera whose first connection stays open without new pictures."""

    def __init__(self) -> None:
        self._connections = iter([paced(20, 10)])

    def __call__(self) -> Iterator[Step]:
        yield from next(self._connections, paced(1000, 10))


def reasons(run: WatchedRun) -> dict[str, str]:
    """The newest end of each source, if it is the newest entry and was repeated: its fault."""
    found = {}
    for name in run.sources:
        for _, fields in run.reader.client.xrevrange(f"fg:{{{name}}}:results", count=1):
            if fields[b"k"] == b"end":
                end = records.decode(fields[b"d"], End)
                found[name] = end.fault or ""
    return found


@pytest.mark.timeout(180)
def test_the_reason_is_stored_with_the_time_and_without_the_password(tmp_path: Path) -> None:
    locked, never = Returning(refused), Returning(refused, starts=False)
    with ExitStack() as stack:
        steps = {"locked": locked, "never": never, "still": Stalling()}
        urls = {name: stack.enter_context(ScriptedCamera(each)).url for name, each in steps.items()}
        off = stack.enter_context(ScriptedCamera(lambda: paced(1000, 10)))
        urls = {
            name: url.replace("//", f"//{LOGIN}") for name, url in (*urls.items(), ("off", off.url))
        }
        run = stack.enter_context(closing(WatchedRun(tmp_path / "user", urls, MORE)))
        run.until_published("off", 20)
        off.close()
        run.until_published("still", 20, epoch=run.until_published("still", 1)[0]["epoch"])

        def all_known() -> bool:
            known = reasons(run)
            return {"locked", "never", "off"} <= known.keys() and "refused" in known["off"]

        run.until("the reasons are in the repeated ends", all_known)
        for each in (locked, never):
            each.may_return.set()
        stack.enter_context(ScriptedCamera(lambda: paced(1000, 10), off.port))
        run.until("all have new frames", lambda: not reasons(run))
        assert run.finish() == 0

    told = framegate(tmp_path, "unseen", "-d", str(run.data), "--json")
    times = {time["source"]: time for time in json.loads(told.out)["times"]}
    assert {name: times[name]["why"] for name in AWAY} == {
        "locked": "permission",
        "never": "permission",
        "off": "unreachable",
        "still": "stalled",
    }
    assert all(times[name]["until"] > times[name]["since"] for name in AWAY)
    assert all("127.0.0.1" in times[name]["detail"] for name in ("locked", "off"))
    told = framegate(tmp_path, "unseen", "-d", str(run.data))
    assert "not watched: the camera refused the login (" in told.out
    assert "not watched: no connection to the camera (" in told.out
    run.check_secrets()
