"""What /api/v1 sends, and its OpenAPI 3.1 document: made of these types and their docstrings."""

from __future__ import annotations

from functools import cache
from importlib.metadata import version
from typing import Any, Final

import msgspec

from framegate.pipeline.client.when import WHEN
from framegate.pipeline.config.settings import lead, meanings, sentence
from framegate.pipeline.episodes import Change, Clip, Moment
from framegate.pipeline.recording.index import (
    Pin,
    RecordedSource,
    RecordedStretch,
    RecordingGap,
    Trim,
)
from framegate.pipeline.records import GateView, GuardNews, Object, Output, PromiseNews, Result
from framegate.pipeline.review.search import (
    Episode,
    EpisodeCount,
    EpisodeStep,
    EpisodeVerdict,
    SeenSpan,
    SeenStretch,
)
from framegate.pipeline.review.verdicts import VerdictCounts
from framegate.pipeline.telemetry.counters import SourceStatus
from framegate.pipeline.telemetry.view import View

LIMIT: Final = 100
MOST_LIMIT: Final = 1000

Schema = dict[str, Any]


class Page(msgspec.Struct, frozen=True):
    """Results of a span.

    results  each source's in order; outputs where a stage was asked for
    next     positions after which to go on: as `after`, or as a stream's Last-Event-ID
    more     whether there is more already
    """

    results: list[Any]
    next: str
    more: bool


class Trimmed(msgspec.Struct, frozen=True):
    """Results of a source were removed before this reader had them: data of the event `trimmed`.

    source  the source
    after   the last position before them that this reader had
    before  the first position after them
    """

    source: str
    after: str
    before: str


class SourceEnd(msgspec.Struct, frozen=True):
    """A source has ended: data of the event `end`.

    source  the source
    frames  decoded in its last epoch
    fault   why it ended; null: it was complete
    """

    source: str
    frames: int
    fault: str | None


class EpisodePage(msgspec.Struct, frozen=True):
    """Episodes of a filter, in the order in which they began.

    episodes  the episodes
    next      where the list goes on, as `after`; null: it ends here
    """

    episodes: list[Episode]
    next: str | None


class PathPoint(msgspec.Struct, frozen=True):
    """Where an object of an episode was in one frame.

    at        position of the frame
    captured  UNIX seconds at which that was taken
    track     number of the object
    label     its class
    score     0..1, how sure the model was
    box       x1, y1, x2, y2 as shares of the picture, 0 to 1
    origin    how it is known, as in results: detected, carried, moved, escalated
    """

    at: str
    captured: float
    track: int
    label: str
    score: float
    box: tuple[float, float, float, float]
    origin: str


class EpisodeDetail(msgspec.Struct, frozen=True):
    """An episode and why it is one.

    episode  the episode
    steps    its changes, in order
    path     where its objects were, thinned out, as far as results are stored
    whole    whether the store still has the results of all of it, and they were few enough
    """

    episode: Episode
    steps: list[EpisodeStep]
    path: list[PathPoint]
    whole: bool


class VerdictSaid(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What somebody says of an episode.

    verdict  true: it is right. false: it is a false alert. unsure: one cannot tell. null: as if
             nobody had said anything
    """

    verdict: EpisodeVerdict | None


class RulesTried(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Rules that are to be tried over results that the store has.

    events  as the table `[events]` of pipeline.toml has them: areas, lines, rules
    source  of which source; empty: of all
    span    seconds before the newest result from which on they are tried
    """

    events: dict[str, Any]
    source: str = ""
    span: float = 3600.0


class TrialFrames(msgspec.Struct, frozen=True):
    """What of a source they were tried over.

    source  name of the source
    frames  results
    since   UNIX seconds at which the first was captured
    until   and the last
    whole   whether that is all of the span that was asked for
    """

    source: str
    frames: int
    since: float
    until: float
    whole: bool


class RulesTrial(msgspec.Struct, frozen=True):
    """What rules would have told.

    episodes  the episodes, the first ones first; none of them is stored
    more      whether there are more than these
    tried     over what
    """

    episodes: list[Episode]
    more: bool
    tried: list[TrialFrames]


class RecordedTime(msgspec.Struct, frozen=True):
    """What there is of a source's time.

    source     its name
    stretches  that were recorded without a gap
    gaps       of which packets came that were not recorded, and why
    pins       what episodes have clips of
    trimmed    what was removed, by cause
    """

    source: str
    stretches: list[RecordedStretch]
    gaps: list[RecordingGap]
    pins: list[Pin]
    trimmed: list[Trim]


class ApiFault(msgspec.Struct, frozen=True):
    """A request was not done.

    error  why, and what is allowed
    """

    error: str


_KINDS: Final = (
    Result,
    Object,
    GateView,
    GuardNews,
    Output[Any],
    View,
    SourceStatus,
    PromiseNews,
    Page,
    EpisodePage,
    EpisodeDetail,
    Episode,
    EpisodeStep,
    PathPoint,
    Moment,
    Clip,
    Change,
    EpisodeCount,
    SeenSpan,
    SeenStretch,
    VerdictCounts,
    VerdictSaid,
    RulesTried,
    TrialFrames,
    RulesTrial,
    Trimmed,
    SourceEnd,
    ApiFault,
    RecordedSource,
    RecordedTime,
)


@cache
def document() -> Schema:
    """The document, as JSON has it."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Framegate",
            "version": version("framegate"),
            "summary": "Results of a run: what is where in which frame, and how that is known",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": {
            "/api/v1/sources": _get(
                "Each source: state, rates, latency, drops by reason, objects a frame",
                [],
                _json({"type": "array", "items": _ref("Source")}),
            ),
            "/api/v1/results": _get(
                "Results of a span; the last ones of each source where none is said",
                [_SOURCE, _STAGE, _FROM, _TO, _AFTER, _LIMIT],
                _json(_ref("Page")),
            ),
            "/api/v1/results/stream": _get(
                "Results as they are published, as Server-Sent Events",
                [_SOURCE, _STAGE, _FROM, _TO, _AFTER, _START, _LAST_ID],
                {
                    "text/event-stream": {
                        "schema": {
                            "type": "string",
                            "description": "An event without a name: its data are a Result, or an "
                            "Output; its id is where a reader goes on that names it as "
                            "Last-Event-ID. `trimmed`: a Trimmed. `end`: a SourceEnd. `fault`: a "
                            "ApiFault, and the stream ends. A comment comes while there is nothing "
                            "new.",
                        }
                    }
                },
            ),
            "/api/v1/episodes": _get(
                "Episodes, times in which a rule held, the newest first",
                [_SOURCE, _RULE, _LABEL, _SINCE, _UNTIL, _AT, _OPEN, _ORDER, _NEXT, _LIMIT],
                _json(_ref("EpisodePage")),
            ),
            "/api/v1/episodes/live": _get(
                "How episodes begin, go on and end, as Server-Sent Events",
                [_SOURCE, _AFTER, _START, _LAST_ID],
                {
                    "text/event-stream": {
                        "schema": {
                            "type": "string",
                            "description": "An event without a name: its data are a Change. Those "
                            "of one frame come together, and the last of them has the id. Else as "
                            "the stream of results",
                        }
                    }
                },
            ),
            "/api/v1/episodes/{id}": _get(
                "One episode: its changes, and where its objects were",
                [_ID],
                _json(_ref("EpisodeDetail")),
            ),
            "/api/v1/episodes/{id}/verdict": _post(
                "Say of an episode whether it is right; takes nothing of pages of other servers",
                [_ID],
                _json(_ref("VerdictSaid")),
                _json(_ref("Episode")),
            ),
            "/api/v1/rules/trial": _post(
                "What rules would have told of the results that are stored; nothing is kept of it",
                [],
                _json(_ref("RulesTried")),
                _json(_ref("RulesTrial")),
            ),
            "/api/v1/counts": _get(
                "How many episodes began, by bucket of time, source, rule and direction",
                [_SOURCE, _RULE, _LABEL, _SINCE, _UNTIL, _BUCKET],
                _json({"type": "array", "items": _ref("EpisodeCount")}),
            ),
            "/api/v1/seen": _get(
                "When sources were watched, and when rules could not be judged; the last day",
                [_SINCE, _UNTIL],
                _json(_ref("SeenSpan")),
            ),
            "/api/v1/verdicts": _get(
                "What was said of episodes, and false alerts a day; the last 30 days",
                [_SINCE, _UNTIL],
                _json({"type": "array", "items": _ref("VerdictCounts")}),
            ),
            "/api/v1/recordings": _get(
                "What is recorded of each source",
                [],
                _json({"type": "array", "items": _ref("RecordedSource")}),
            ),
            "/api/v1/recordings/{source}": _get(
                "What there is of a source's time: stretches, gaps, clips, what was removed",
                [_OF, _FROM, _TO],
                _json(_ref("RecordedTime")),
            ),
            "/api/v1/recordings/{source}/playlist.m3u8": _get(
                "An HLS playlist, of a day at most; it goes on where `to` is not in the past",
                [_OF, _FROM, _TO],
                {"application/vnd.apple.mpegurl": {"schema": {"type": "string"}}},
            ),
            "/api/v1/recordings/{source}/init/{digest}.mp4": _get(
                "An init part, as playlists name it", [_OF, _DIGEST], _VIDEO
            ),
            "/api/v1/recordings/{source}/{epoch}/{day}/{name}.m4s": _get(
                "A segment, as playlists name it", [_OF, _EPOCH, _DAY, _NAME], _VIDEO
            ),
            "/api/v1/recordings/{source}/clip.mp4": _get(
                "A range as one MP4, an hour at most; the header Framegate-Parts says how many "
                "there are, as the camera changed what it sends",
                [_OF, _FROM, _TO, _PART],
                _VIDEO,
            ),
            "/api/v1/openapi.json": _get("This document", [], _json({"type": "object"})),
        },
        "components": {
            "schemas": _schemas(),
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer"},
                "password": {
                    "type": "http",
                    "scheme": "basic",
                    "description": "The token is the password of any user",
                },
            },
        },
        "security": [{"token": []}, {"password": []}, {}],
    }


def _schemas() -> dict[str, Schema]:
    _, found = msgspec.json.schema_components(_KINDS, ref_template="#/components/schemas/{name}")
    named = {_named(kind): kind for kind in _KINDS}
    schemas = {name: _told(named.get(name), schema) for name, schema in found.items()}
    page, status = schemas["Page"], schemas.pop("SourceStatus")
    page["properties"]["results"]["items"] = {"anyOf": [_ref("Result"), _ref("Output")]}
    source = schemas.pop("View")
    fields = source["properties"]
    fields["dropped"] = fields.pop("drops")
    fields |= {name: status["properties"][name] for name in ("live", "url", "credit")}
    source |= {"title": "Source", "required": sorted(fields)}
    output = schemas.pop("Output_Any_") | {"title": "Output"}
    return {**schemas, "Source": source, "Output": output}


def _named(kind: Any) -> str:
    return "Output_Any_" if kind == Output[Any] else str(kind.__name__)


def _told(kind: Any, schema: Schema) -> Schema:
    """The schema with what docstrings tell, field by field."""
    plain = getattr(kind, "__origin__", kind)
    if plain is None:
        return schema
    told = meanings(plain)
    fields = {
        name: {**said, **({"description": sentence(told[name])} if name in told else {})}
        for name, said in schema["properties"].items()
    }
    return {**schema, "description": lead(plain.__doc__ or ""), "properties": fields}


def _get(summary: str, parameters: list[Schema], content: Schema) -> Schema:
    refused = {"description": "Why not", "content": _json(_ref("ApiFault"))}
    answers: Schema = {"200": {"description": "As asked for", "content": content}}
    if parameters:
        answers |= {"400": refused, "404": refused}
    answers |= {"401": {"description": "A token is needed"}, "503": {"description": "Not now"}}
    said: Schema = {"summary": summary, "responses": answers}
    return {"get": said | ({"parameters": parameters} if parameters else {})}


def _post(summary: str, parameters: list[Schema], taken: Schema, content: Schema) -> Schema:
    said: Schema = _get(summary, parameters, content)["get"]
    fault = {"description": "Why not", "content": _json(_ref("ApiFault"))}
    answers = said["responses"] | {"403": fault, "413": fault, "415": fault}
    body = {"required": True, "content": taken}
    return {"post": {**said, "requestBody": body, "responses": answers}}


def _json(schema: Schema) -> Schema:
    return {"application/json": {"schema": schema}}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _parameter(name: str, text: str, schema: Schema | None = None, place: str = "query") -> Schema:
    said = {"name": name, "in": place, "description": text, "schema": schema or {"type": "string"}}
    return said | ({"required": True} if place == "path" else {})


_POSITIONS: Final = "SOURCE=EPOCH-SEQ, several with commas between"
_SOURCE: Final = _parameter("source", "Names, several with commas between; default: all sources")
_STAGE: Final = _parameter("stage", "What this stage gave, instead of results")
_FROM: Final = _parameter("from", f"The earliest: {WHEN}")
_TO: Final = _parameter("to", f"The latest: {WHEN}")
_AFTER: Final = _parameter("after", f"What comes after these positions: {_POSITIONS}")
_START: Final = _parameter(
    "start",
    "Where no position is given: with what is new, or with the oldest that is there",
    {"type": "string", "enum": ["new", "earliest"], "default": "new"},
)
_LAST_ID: Final = _parameter(
    "Last-Event-ID", f"The last event's id, as browsers send it: {_POSITIONS}", place="header"
)
_LIMIT: Final = _parameter(
    "limit",
    "Results of each source, at most",
    {"type": "integer", "minimum": 1, "maximum": MOST_LIMIT, "default": LIMIT},
)
_TIME: Final = "a time (2026-11-27T10:30, 10:30, UNIX seconds, or 15m: so long ago)"
_RULE: Final = _parameter("rule", "Names of rules, several with commas between")
_LABEL: Final = _parameter("label", "Labels, several with commas between")
_SINCE: Final = _parameter("from", f"What began from then on: {_TIME}")
_UNTIL: Final = _parameter("to", f"What began up to then: {_TIME}")
_AT: Final = _parameter("at", f"Only those that went on at that time: {_TIME}")
_OPEN: Final = _parameter("open", "1: only those that go on still", {"type": "integer"})
_NEXT: Final = _parameter("after", "Where the list goes on: what `next` said")
_ID: Final = _parameter("id", "Of the episode; it has slashes, as they are", place="path")
_BUCKET: Final = _parameter(
    "bucket", "Its length: 1h, 15m, 1d", {"type": "string", "default": "1h"}
)
_ORDER: Final = _parameter(
    "order",
    "Which come first",
    {"type": "string", "enum": ["newest", "oldest"], "default": "newest"},
)
_OF: Final = _parameter("source", "A source's name", place="path")
_DIGEST: Final = _parameter("digest", "Of the init part", place="path")
_EPOCH: Final = _parameter("epoch", "Of the segment", {"type": "integer"}, place="path")
_DAY: Final = _parameter("day", "Of the segment, as 2026-11-27", place="path")
_NAME: Final = _parameter("name", "Of the segment", place="path")
_PART: Final = _parameter("part", "Which part", {"type": "integer", "minimum": 1, "default": 1})
_VIDEO: Final[Schema] = {"video/mp4": {"schema": {"type": "string", "format": "binary"}}}
