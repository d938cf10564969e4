"""`framegate mcp` as an assistant's program meets it: the SDK's own client, over its pipes."""

from __future__ import annotations

import asyncio
import base64
import json
import sqlite3
import sys
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from framegate.cli.review.mcp import MOST_EPISODES, MOST_STEPS
from framegate.pipeline.contracts.episodes import Changes, EventEntry
from framegate.pipeline.contracts.records import START, Position
from framegate.pipeline.recording.changed_parts import PART_BYTES
from framegate.pipeline.recording.changed_parts_writer import ChangedPartsWriter
from framegate.pipeline.review.event_database import FILE
from framegate.pipeline.review.projection import Projection, Watched
from framegate.pipeline.run.rpc import announced
from framegate.stages.draw.pictures import Pictures
from tests.support.commands import framegate
from tests.support.runs import DEADLINE_S, environment
from tests.support.said import BEGAN, change, moment
from tests.support.servers import server
from tests.support.studio import KNOWN, Studio
from tests.support.web_server import serving

if TYPE_CHECKING:  # its import takes 2 s of CPU time, in each process that collects the tests
    from mcp.client.client import Client
    from mcp.types import CallToolResult

SINCE = "2026-09-21"  # before BEGAN, in every zone


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of a run: 150 visits at the door, the last of which goes on, with 120 updates."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    projection, before = Projection(tmp_path / FILE), START
    for n in range(1, 151):
        said = [change("start", n, n)]
        if n < 150:
            said.append(change("end", n, n))
        else:
            said += [change("update", n, n + u, number=u) for u in range(1, 121)]
        at = Position(1, n)
        told = Changes(tuple(said), unknown=("parked",) if n == 1 else ())
        projection.take([EventEntry("door", at, before, moment(n).captured, told)])
        before = at
    projection.watch([Watched("door", 1, BEGAN, moment(150).captured)])
    projection.close()
    return tmp_path


def asked(folder: Path, ask: Callable[[Client], Awaitable[Any]]) -> Any:
    """What a client gets, of a server of its own that ends with it."""
    from mcp.client.client import Client
    from mcp.client.stdio import StdioServerParameters

    async def talk() -> Any:
        words = ["-m", "framegate.cli", "mcp", "-d", str(folder)]
        started = StdioServerParameters(
            command=sys.executable,
            args=words,
            env={**environment(), "XDG_STATE_HOME": str(folder / "state")},
            cwd=folder,
        )
        async with Client(started, read_timeout_seconds=DEADLINE_S) as client:
            return await ask(client)

    return asyncio.run(talk())


def told(answer: CallToolResult) -> dict[str, Any]:
    """What a tool tells, the same as text and as data."""
    (text,) = answer.content
    assert text.type == "text"
    assert not answer.is_error, text.text
    found: dict[str, Any] = json.loads(text.text)
    assert answer.structured_content == found
    return found


def test_an_assistant_finds_episodes_and_why_they_are(folder: Path) -> None:
    async def ask(client: Client) -> list[CallToolResult]:
        first = await client.call_tool("episodes", {"source": ["door"], "limit": 2})
        after = told(first)["next"]
        return [
            first,
            await client.call_tool("episodes", {"limit": 2, "after": after}),
            await client.call_tool("episodes", {"open": True}),
            await client.call_tool("episodes", {"at": str(moment(20).captured)}),
            await client.call_tool("episode", {"id": "door/visitor/1-150/0"}),
            await client.call_tool("counts", {"since": SINCE, "until": str(BEGAN + 86_400)}),
            await client.call_tool("sources", {"since": SINCE}),
            await client.call_tool("changes", {"source": "door", "since": SINCE}),
        ]

    writer = ChangedPartsWriter(folder, 1 << 30)
    writer.keep("door", Position(1, 9), BEGAN, (640, 360), bytes([1] * PART_BYTES))
    writer.close()
    first, second, going_on, then, one, counts, sources, changes = map(told, asked(folder, ask))
    assert [period["first"] for period in changes["periods"]] == ["1-9"]
    assert (changes["earlier_periods_left_out"], changes["known_s"]) == (0, 0)
    ids = [f"door/visitor/1-{n}/0" for n in (150, 149, 148, 147)]
    assert [e["id"] for each in (first, second) for e in each["episodes"]] == ids
    assert [e["ended_by"] for e in first["episodes"]] == ["open", "over"]
    assert [e["id"] for e in going_on["episodes"]] == ids[:1]
    assert [e["id"] for e in then["episodes"]] == ["door/visitor/1-20/0"]
    assert one["episode"]["models"] == ["light-int8@00000000"]
    assert [s["number"] for s in one["steps"]] == list(range(21, 121))
    assert (len(one["steps"]), one["steps_left_out"]) == (MOST_STEPS, 21)
    assert sum(c["count"] for c in counts["counts"]) == 150
    (door,) = sources["sources"]
    assert (door["source"], door["rules"], door["unknown"]) == (
        "door", {"visitor": 150}, ["parked"],
    )  # fmt: skip


def test_tools_say_what_they_take_and_that_they_read(folder: Path) -> None:
    tools = {t.name: t for t in asked(folder, lambda client: client.list_tools()).tools}
    assert set(tools) == {
        "episodes", "episode", "counts", "sources", "visits", "changes", "learned_filter",
        "snapshot",
    }  # fmt: skip
    assert all(t.annotations.read_only_hint and t.description for t in tools.values())
    limit = tools["episodes"].input_schema["properties"]["limit"]
    assert (limit["minimum"], limit["maximum"]) == (1, MOST_EPISODES)


REFUSED = [
    ("episods", {}, "did you mean episodes?"),
    ("episodes", {"limti": 3}, "unknown field `limti`"),
    ("episodes", {"limit": 1000}, "`int` <= 100"),
    ("episodes", {"since": "yesterday"}, "since must be a time "),
    ("episodes", {"after": "x"}, "use the `next` of a response"),
    ("episode", {"id": "door/visitor/9-9/0"}, "no episode 'door/visitor/9-9/0'"),
    ("counts", {"bucket": "1s", "since": SINCE}, "a shorter span, or longer buckets"),
    ("changes", {"source": "door"}, "no changed parts are stored"),
    ("changes", {"source": "door", "region": "1,2"}, "region must be x1,y1,x2,y2"),
    ("visits", {"words": "cart"}, "'cart' is not a known word"),
    ("snapshot", {"source": "door"}, "no run is active"),
]


def test_what_cannot_be_had_is_said(folder: Path) -> None:
    async def ask(client: Client) -> list[CallToolResult]:
        return [await client.call_tool(tool, words) for tool, words, _ in REFUSED]

    for answer, (_, _, says) in zip(asked(folder, ask), REFUSED, strict=True):
        assert answer.is_error
        assert says in answer.content[0].text


def test_a_server_may_start_before_there_is_anything_and_writes_nothing(tmp_path: Path) -> None:
    answer = asked(tmp_path, lambda client: client.call_tool("sources", {}))
    assert answer.is_error
    assert "no such file; a run makes it" in answer.content[0].text
    assert not list(tmp_path.glob("events.db*"))


def test_a_picture_is_that_of_the_runs_http_port(folder: Path) -> None:
    with server(folder / "store") as store:
        studio = Studio(store)
        studio.show(3)
        pictures = Pictures(studio.frame_store, studio.url, lambda: KNOWN)
        with serving(pictures.routes()) as port, announced(folder, http=f"127.0.0.1:{port}"):
            answer = asked(folder, lambda client: client.call_tool("snapshot", {"source": "door"}))
        studio.close()
    picture, said = answer.content
    assert picture.type == "image"
    assert said.type == "text"
    assert base64.b64decode(picture.data).startswith(b"\xff\xd8")
    assert said.text.startswith("door: a picture of ")


def test_it_ends_with_its_pipes(folder: Path) -> None:
    ended = framegate(folder, "mcp", "-d", str(folder))  # standard input is empty
    assert (ended.code, ended.out) == (0, "")
    with closing(sqlite3.connect(folder / FILE)) as database:
        assert database.execute("SELECT count(*) FROM episode").fetchone() == (150,)
