"""What /api/v1 sends, and its OpenAPI 3.1 document: made of these types and their docstrings."""

from __future__ import annotations

from functools import cache
from importlib.metadata import version
from typing import Any, Final

import msgspec

from framegate.pipeline.client.when import WHEN
from framegate.pipeline.config.settings import lead, meanings, sentence
from framegate.pipeline.records import GateView, GuardNews, Object, Output, PromiseNews, Result
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
    Trimmed,
    SourceEnd,
    ApiFault,
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


def _json(schema: Schema) -> Schema:
    return {"application/json": {"schema": schema}}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _parameter(name: str, text: str, schema: Schema | None = None, place: str = "query") -> Schema:
    return {"name": name, "in": place, "description": text, "schema": schema or {"type": "string"}}


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
