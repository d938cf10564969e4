"""`framegate mcp`: serve episodes and pictures to assistants, over the Model Context Protocol.

The assistant's program starts the command, which is a server on standard input and output. The
arguments of each tool are a record, whose fields make the schema that the assistant sees. All tools
only read: the database is opened read-only and guarded, and a picture comes from the run's HTTP
port.
"""

from __future__ import annotations

import argparse
import base64
import math
import signal
import sqlite3
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple

import msgspec
from msgspec import Meta

from framegate.cli.console.arguments import add_data, given_time
from framegate.cli.control.watch import Snapshot, fetch
from framegate.cli.help import ending
from framegate.pipeline.client.when import TIME
from framegate.pipeline.contracts.duration import duration_s
from framegate.pipeline.contracts.errors import ConfigFaults, Exit, FramegateError, did_you_mean
from framegate.pipeline.contracts.redaction import redacted
from framegate.pipeline.recording.changed_parts import changes_of_region, read_region
from framegate.pipeline.review.episode_counts import counts, known_sources
from framegate.pipeline.review.event_database import FILE, opened
from framegate.pipeline.review.search import (
    Episode,
    EpisodeCursor,
    EpisodeFilter,
    episode_of,
    find,
    gaps,
    steps_of,
)
from framegate.pipeline.review.teach import offer
from framegate.pipeline.review.user_sql import guard
from framegate.pipeline.review.visit_index import VisitIndex
from framegate.pipeline.review.visit_search import VOCABULARY
from framegate.pipeline.review.visits import VisitQuery, search
from framegate.pipeline.run.ended import data_folder
from framegate.pipeline.run.rpc import NoRun, find_run
from framegate.pipeline.system.logs import to_user

MOST_EPISODES: Final = 100
MOST_STEPS: Final = 100
MOST_COUNTS: Final = 500
MOST_NAMES: Final = 200
MOST_PERIODS: Final = 100
MOST_VISITS: Final = 100
PICTURE_WIDTH: Final = 1280
DAY_S: Final = 86400.0
LIMIT_S: Final = 10.0  # for a query of the database
ABOUT: Final = (
    "Query the episodes of a Framegate run that watches cameras and video files. An episode is one "
    "period in which a rule was true at a source. `sources` lists sources and rules; `episodes` "
    "lists and filters episodes, `episode` returns one, `counts` counts them, `visits` "
    "searches tracked objects without a rule, `changes` returns when a region of a picture "
    "changed, `learned_filter` shows what verdicts teach about false "
    "alerts, `snapshot` returns the current picture of a source. If a source was not watched, or a "
    "rule not judged, a missing episode does not mean that nothing happened."
)


def register(commands: Any) -> None:
    """Add the command to the command line."""
    command = commands.add_parser(
        "mcp",
        description="Run a server on standard input and output with read-only tools: "
        "episodes, episode, counts, sources, visits, changes, learned_filter, snapshot. It needs "
        "the package mcp.",
        epilog=ending("framegate mcp", "framegate mcp -d data", page="review"),
    )
    command.set_defaults(command=_mcp)
    add_data(command)


def _mcp(parsed: argparse.Namespace) -> Exit:
    if find_spec("mcp") is None:
        raise ConfigFaults(
            ["mcp needs the package mcp, which is not installed; run: pip install 'mcp>=2,<3'"]
        )
    if sys.stdin.isatty():
        to_user.warning(
            "an assistant's program starts this command and talks to it; Ctrl-C ends it"
        )
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # else the SDK's reader waits for another line
    _serve(Tools(parsed.data))
    return Exit.DONE


# -- Arguments of the tools.

Names = Annotated[list[str], Meta(max_length=50)]


class _ToolAsked(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class _Filter(_ToolAsked, frozen=True):
    source: Annotated[Names, Meta(description="only these sources; empty: all")] = []
    rule: Annotated[Names, Meta(description="only these rules; empty: all")] = []
    label: Annotated[Names, Meta(description="only these labels, such as person; empty: all")] = []
    since: Annotated[str | None, Meta(description=f"only episodes that began since: {TIME}")] = None
    until: Annotated[
        str | None, Meta(description="only episodes that began until this time, as `since`")
    ] = None

    def wanted(self, **more: Any) -> EpisodeFilter:
        """Return the filter for the database. ConfigFaults."""
        return EpisodeFilter(
            sources=tuple(self.source),
            rules=tuple(self.rule),
            labels=tuple(self.label),
            since=given_time("since", self.since),
            until=given_time("until", self.until),
            **more,
        )


class EpisodesAsked(_Filter, frozen=True):
    """List episodes, the newest first: which objects were where, when, and for how long."""

    at: Annotated[
        str | None, Meta(description="only episodes that were open at this time, as `since`")
    ] = None
    open: Annotated[bool, Meta(description="only open episodes")] = False
    muted: Annotated[
        bool, Meta(description="only episodes that a learned filter muted; they are left out else")
    ] = False
    limit: Annotated[
        int, Meta(ge=1, le=MOST_EPISODES, description="maximum number of episodes")
    ] = 20
    after: Annotated[
        str | None, Meta(description="`next` of the last answer, to continue the list")
    ] = None


class EpisodeAsked(_ToolAsked, frozen=True):
    """Show everything about one episode: evidence, models, and each step of it."""

    id: Annotated[str, Meta(description="id of the episode, from `episodes`")]


class CountsAsked(_Filter, frozen=True):
    """Count the episodes that began, by bucket of time, source, rule and direction. The last day,
    unless `since` is given.
    """

    bucket: Annotated[str, Meta(description="length of a bucket, such as 15m, 1h or 1d")] = "1h"


class SourcesAsked(_ToolAsked, frozen=True):
    """List the sources: when each was watched last, the rules that judged it and how many episodes
    of each began, rules that cannot be judged now, and what was lost.
    """

    since: Annotated[str, Meta(description=f"episodes that began since: {TIME}")] = "7d"


class LearnedFilterAsked(_ToolAsked, frozen=True):
    """Show the filter that the verdicts about a rule at a source teach, and which stored episodes
    it would have muted and kept. Nothing is switched on.
    """

    source: Annotated[str, Meta(description="name of the source")]
    rule: Annotated[str, Meta(description="name of the rule")]


class SnapshotAsked(_ToolAsked, frozen=True):
    """Show the current picture of a source of an active run: a JPEG with its objects drawn."""

    source: Annotated[str, Meta(description="name of the source")]


class VisitsAsked(_ToolAsked, frozen=True):
    """Search visits: tracked objects from their first to their last frame, the best match first."""

    words: Annotated[
        str, Meta(description=f"words with commas between, all of which must match: {VOCABULARY}")
    ] = ""
    like: Annotated[
        str, Meta(description="id of a visit: the nearest to it come first; empty: none")
    ] = ""
    limit: Annotated[int, Meta(ge=1, le=MOST_VISITS, description="maximum number of visits")] = 20


class ChangesAsked(_ToolAsked, frozen=True):
    """List when a region of a source's picture changed, by the stored comparisons of frames. Use it
    for questions about things that are no known object: a door, a shelf, a light.
    """

    source: Annotated[str, Meta(description="name of the source")]
    region: Annotated[
        str,
        Meta(description="left,top,right,bottom as shares of the picture, such as 0.1,0.2,0.4,0.6"),
    ] = "0,0,1,1"
    since: Annotated[str, Meta(description=f"only frames since: {TIME}")] = "1d"
    until: Annotated[str | None, Meta(description="only frames until, as `since`")] = None


# -- Answers.


class EpisodeLine(msgspec.Struct, frozen=True, omit_defaults=True):
    """An episode in a list. Fields as in `Episode`; times are in the zone of this host."""

    id: str
    source: str
    rule: str
    severity: str
    began: str
    seconds: float
    ended_by: str
    label: str | None = None
    objects: int = 0
    direction: str | None = None
    value: float | None = None
    unsure: bool = False
    bridged: bool = False
    verdict: str | None = None
    muted: str | None = None


def as_line(episode: Episode) -> EpisodeLine:
    """Return an episode for a list."""
    return EpisodeLine(
        episode.id, episode.source, episode.rule, episode.severity, iso(episode.began.captured),
        round(episode.seconds, 1), episode.ended_by or "open", episode.label,
        len(episode.tracks), episode.direction, episode.value, episode.unsure, episode.bridged,
        episode.verdict, episode.muted,
    )  # fmt: skip


def iso(seconds: float) -> str:
    """Return UNIX seconds as 2026-11-27T10:30:05+01:00."""
    return datetime.fromtimestamp(seconds).astimezone().isoformat(timespec="seconds")


class Tools:
    """The tools of the server. Each call opens the database again, as a run may start meanwhile."""

    def __init__(self, folder: Path | None) -> None:
        """Use the run's data folder; None for the active run, or the last one."""
        self._folder = folder

    def call(self, name: str, arguments: Mapping[str, Any]) -> dict[str, Any] | Snapshot:
        """Run one tool. FramegateError with the reason if it fails."""
        tool = TOOLS.get(name)
        if tool is None:
            raise ConfigFaults([f"no tool {name[:40]!r}{did_you_mean(name, TOOLS)}"])
        try:
            asked = msgspec.convert(arguments, tool.asked)
        except msgspec.ValidationError as error:
            raise ConfigFaults([f"{name}: {error}"]) from error
        if isinstance(asked, SnapshotAsked):
            return self._snapshot(asked)
        if isinstance(asked, ChangesAsked):
            return {"now": iso(time.time()), **_changes(data_folder(self._folder), asked)}
        assert tool.answer is not None
        try:
            with opened(data_folder(self._folder) / FILE) as database:
                guard(database, LIMIT_S)
                answer = tool.answer(database, asked)
        except sqlite3.Error as error:
            raise ConfigFaults([f"{name}: the database does not answer: {error}"]) from error
        return {"now": iso(time.time()), **answer}

    def _snapshot(self, asked: SnapshotAsked) -> Snapshot:
        try:
            run = find_run(self._folder)
        except NoRun:
            raise ConfigFaults(
                ["snapshot: no run is active, so there is no current picture"]
            ) from None
        return fetch(run, asked.source, plain=False, width=PICTURE_WIDTH)


def _episodes(database: sqlite3.Connection, asked: EpisodesAsked) -> dict[str, Any]:
    after = None
    if asked.after is not None:
        try:
            after = EpisodeCursor.parse(asked.after)
        except ValueError as error:
            raise ConfigFaults([f"after: {error}"]) from None
    wanted = asked.wanted(at=given_time("at", asked.at), open=asked.open, muted=asked.muted)
    episodes, more = find(database, wanted, asked.limit, after)
    lines = msgspec.to_builtins([as_line(episode) for episode in episodes])
    cursor = None if more is None else str(more)
    return {"episodes": lines, "next": cursor}


def _episode(database: sqlite3.Connection, asked: EpisodeAsked) -> dict[str, Any]:
    episode = episode_of(database, asked.id)
    if episode is None:
        raise ConfigFaults([f"no episode {asked.id[:100]!r}; `episodes` lists them"])
    steps = steps_of(database, asked.id)
    return {
        "episode": msgspec.to_builtins(episode),
        "began": iso(episode.began.captured),
        "last": iso(episode.last.captured),
        "steps": msgspec.to_builtins(steps[-MOST_STEPS:]),
        "steps_left_out": max(0, len(steps) - MOST_STEPS),
    }


def _learned_filter(database: sqlite3.Connection, asked: LearnedFilterAsked) -> dict[str, Any]:
    offered = offer(database, asked.source, asked.rule)
    answer: dict[str, Any] = msgspec.to_builtins(offered)
    del answer["filter"], answer["filter_digest"], answer["filter_version"]  # not in the database
    if offered.trial is not None:
        for name in ("would_mute", "would_keep"):
            lines = [as_line(episode) for episode in getattr(offered.trial, name)]
            answer["trial"][name] = msgspec.to_builtins(lines)
    return answer


def _counts(database: sqlite3.Connection, asked: CountsAsked) -> dict[str, Any]:
    try:
        bucket_s = duration_s(asked.bucket)
        if bucket_s < 1:
            raise ValueError(f"must be at least 1 s, got {bucket_s:g} s")
        wanted = asked.wanted()
        until, since = wanted.until, wanted.since
        if until is None:
            until = time.time()
        if since is None:
            since = until - max(DAY_S, 24 * bucket_s)
        buckets = counts(database, replace(wanted, since=since, until=until), bucket_s)
    except ValueError as error:
        raise ConfigFaults([f"bucket {error}"]) from None
    if len(buckets) > MOST_COUNTS:
        raise ConfigFaults(
            [
                f"counts: {len(buckets)} counts; at most {MOST_COUNTS} are allowed: ask for a "
                "shorter span, longer buckets, or fewer sources and rules"
            ]
        )
    rows = [{**msgspec.to_builtins(bucket), "start": iso(bucket.start)} for bucket in buckets]
    return {"counts": rows, "since": iso(since), "until": iso(until)}


def _sources(database: sqlite3.Connection, asked: SourcesAsked) -> dict[str, Any]:
    since = given_time("since", asked.since)
    assert since is not None
    sources = known_sources(database, since)
    rows = []
    for source in sources[:MOST_NAMES]:
        row = msgspec.to_builtins(source)
        if source.watched is not None:
            row["watched"] = iso(source.watched)
        rows.append(row)
    lost = [str(gap) for gap in gaps(database)[-MOST_NAMES:]]
    left_out = max(0, len(sources) - MOST_NAMES)
    return {"sources": rows, "since": iso(since), "lost": lost, "sources_left_out": left_out}


_INDEX: Final = VisitIndex()  # of the folder that was asked last


def _visits(database: sqlite3.Connection, asked: VisitsAsked) -> dict[str, Any]:
    query = VisitQuery(words=asked.words, like=asked.like, limit=asked.limit)
    answer = search(_INDEX, database, query)
    rows = []
    for each in answer.found:
        row = msgspec.to_builtins(each.visit)
        row["began"] = iso(each.visit.began.captured)
        row["last"] = iso(each.visit.last.captured)
        rows.append({**row, "strength": each.strength})
    return {"visits": rows, "matching": answer.matching, "searched": answer.searched}


def _changes(folder: Path, asked: ChangesAsked) -> dict[str, Any]:
    try:
        region = read_region(asked.region)
    except ValueError as error:
        raise ConfigFaults([f"region {error}"]) from None
    since = given_time("since", asked.since) or 0.0
    until = given_time("until", asked.until)
    if until is None:
        until = math.inf
    changes = changes_of_region(folder, asked.source, region, since, until)
    periods = [
        {"since": iso(each.since), "until": iso(each.until), "first": each.first}
        for each in changes.periods[-MOST_PERIODS:]
    ]
    known = [[iso(first), iso(last)] for first, last in changes.known[-MOST_PERIODS:]]
    return {
        "periods": periods,
        "earlier_periods_left_out": changes.left_out + len(changes.periods) - len(periods),
        "known": known,
        "known_s": changes.known_s,
    }


# -- The server.


class _Tool(NamedTuple):
    asked: type[_ToolAsked]
    answer: Callable[[sqlite3.Connection, Any], dict[str, Any]] | None  # None: needs no database


TOOLS: Final[Mapping[str, _Tool]] = {
    "episodes": _Tool(EpisodesAsked, _episodes),
    "episode": _Tool(EpisodeAsked, _episode),
    "counts": _Tool(CountsAsked, _counts),
    "sources": _Tool(SourcesAsked, _sources),
    "visits": _Tool(VisitsAsked, _visits),
    "changes": _Tool(ChangesAsked, None),
    "learned_filter": _Tool(LearnedFilterAsked, _learned_filter),
    "snapshot": _Tool(SnapshotAsked, None),
}


def _serve(tools: Tools) -> None:
    """Answer on standard input and output until the other side closes them."""
    import anyio
    from mcp import types
    from mcp.server.lowlevel import Server
    from mcp.server.stdio import stdio_server

    async def list_tools(context: Any, params: Any) -> types.ListToolsResult:  # noqa: ARG001
        reads = types.ToolAnnotations(
            read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=False
        )
        return types.ListToolsResult(
            tools=[
                types.Tool(
                    name=name,
                    description=" ".join((tool.asked.__doc__ or "").split()),
                    input_schema=_schema(tool.asked),
                    annotations=reads,
                )
                for name, tool in TOOLS.items()
            ]
        )

    async def call_tool(context: Any, params: Any) -> types.CallToolResult:  # noqa: ARG001
        try:
            answer = await anyio.to_thread.run_sync(tools.call, params.name, params.arguments or {})
        except FramegateError as error:
            reason = types.TextContent(type="text", text=redacted(str(error)))
            return types.CallToolResult(content=[reason], is_error=True)
        if isinstance(answer, Snapshot):
            data = base64.b64encode(answer.jpeg).decode()
            picture = types.ImageContent(type="image", data=data, mime_type="image/jpeg")
            age = types.TextContent(type="text", text=answer.in_words(params.arguments["source"]))
            return types.CallToolResult(content=[picture, age])
        text = types.TextContent(type="text", text=msgspec.json.encode(answer).decode())
        return types.CallToolResult(content=[text], structured_content=answer)

    async def serve() -> None:
        server = Server(
            "framegate",
            version=version("framegate"),
            instructions=ABOUT,
            on_list_tools=list_tools,
            on_call_tool=call_tool,
        )
        async with stdio_server() as (read, write):
            await server.run(read, write, server.create_initialization_options())

    anyio.run(serve)


def _schema(asked: type[_ToolAsked]) -> dict[str, Any]:
    """Return the JSON schema of a tool's arguments, without references."""
    definitions = msgspec.json.schema(asked)["$defs"]
    schema: dict[str, Any] = definitions[asked.__name__]
    return {key: value for key, value in schema.items() if key not in ("title", "description")}
