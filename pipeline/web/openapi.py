"""The OpenAPI 3.1 document of /api/v1: made of its routes, of the types that these take and give,
and of the docstrings of both.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from importlib.metadata import version
from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from framegate.pipeline.client.when import WHEN
from framegate.pipeline.config.settings import lead, meanings, sentence
from framegate.pipeline.contracts.episodes import Change
from framegate.pipeline.contracts.results import Output, Result
from framegate.pipeline.telemetry.beside import Beside
from framegate.pipeline.telemetry.run_status import SourceStatus
from framegate.pipeline.telemetry.view import View

LIMIT: Final = 100
MAX_LIMIT: Final = 1000

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


def _json(schema: Schema) -> Schema:
    return {"application/json": {"schema": schema}}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


class Operation(Route):
    """A route of /api/v1, with what the document says of it beside the endpoint's docstring."""

    def __init__(
        self,
        path: str,
        endpoint: Callable[[Request], Response | Awaitable[Response]],
        takes: Sequence[Schema] = (),
        *,
        gives: Any,
        body: type | None = None,
    ) -> None:
        """Describe it, and serve it.

        takes  its parameters
        gives  type of what it answers as JSON; or a `media`
        body   type of the JSON that is posted; None: it is a GET
        """
        super().__init__(path, endpoint, methods=["GET" if body is None else "POST"])
        self.takes, self.gives, self.body = takes, gives, body

    def described(self, schema_of: Callable[[Any], Schema]) -> Schema:
        """Give its part of the document."""
        text = " ".join((self.endpoint.__doc__ or "").split())
        given = self.gives
        content = given if isinstance(given, dict) else _json(schema_of(given))
        refused = {"description": "Why not", "content": _json(_ref("ApiFault"))}
        answers: Schema = {"200": {"description": "As asked for", "content": content}}
        if self.takes or self.body:
            answers |= {"400": refused, "404": refused}
        answers |= {"401": {"description": "A token is needed"}, "503": {"description": "Not now"}}
        said: Schema = {"summary": re.split(r"[;:]|\.$", text)[0], "description": text}
        said["responses"] = answers
        if self.takes:
            said["parameters"] = list(self.takes)
        if self.body is None:
            return {"get": said}
        answers |= {"403": refused, "413": refused, "415": refused}
        taken = {"required": True, "content": _json(schema_of(self.body))}
        return {"post": {**said, "requestBody": taken}}


def media(kind: str, text: str = "", **schema: str) -> Schema:
    """What an operation gives that is no JSON. text: what is in it."""
    said = {"type": "string", **schema, **({"description": text} if text else {})}
    return {kind: {"schema": said}}


SOURCES: Final[Schema] = _json({"type": "array", "items": _ref("Source")})
"""What gives the run's sources."""


def parameter(name: str, text: str, schema: Schema | None = None, place: str = "query") -> Schema:
    """Describe a parameter of an operation."""
    said = {"name": name, "in": place, "description": text, "schema": schema or {"type": "string"}}
    return said | ({"required": True} if place == "path" else {})


_POSITIONS: Final = "SOURCE=EPOCH-SEQ, several with commas between"
SOURCE: Final = parameter("source", "Names, several with commas between; default: all sources")
FROM: Final = parameter("from", f"The earliest: {WHEN}")
TO: Final = parameter("to", f"The latest: {WHEN}")
AFTER: Final = parameter("after", f"Only results after these positions: {_POSITIONS}")
STREAM_START: Final = parameter(
    "start",
    "Start if no position is given: new results, or the oldest stored one",
    {"type": "string", "enum": ["new", "earliest"], "default": "new"},
)
LAST_ID: Final = parameter(
    "Last-Event-ID", f"The last event's id, as browsers send it: {_POSITIONS}", place="header"
)
AT_MOST: Final = parameter(
    "limit",
    "Results of each source, at most",
    {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": LIMIT},
)

_ALWAYS: Final = (
    *(Result, Output[Any], Change, Trimmed, SourceEnd, ApiFault, View, SourceStatus, Beside),
)
"""What faults, streams of events and sources are made of."""


def document(routes: Iterable[BaseRoute]) -> Schema:
    """The document of those of the routes that are operations, as JSON has it."""
    operations = [route for route in routes if isinstance(route, Operation)]
    asked = [kind for one in operations for kind in (one.gives, one.body)]
    kinds = (*_ALWAYS, *(kind for kind in asked if kind and not isinstance(kind, dict)))
    schemas, components = msgspec.json.schema_components(kinds, ref_template=_ref("{name}")["$ref"])
    by_kind = dict(zip(map(str, kinds), schemas, strict=True))
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Framegate",
            "version": version("framegate"),
            "summary": "Results of a run: what is where in which frame, and how that is known",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": {
            re.sub(r":\w+}", "}", one.path): one.described(lambda kind: by_kind[str(kind)])
            for one in operations
        },
        "components": {
            "schemas": _schemas(kinds, components),
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


def _schemas(kinds: Sequence[Any], found: dict[str, Schema]) -> dict[str, Schema]:
    """The schemas with what docstrings tell; a source is its view and its status in one."""
    told = _types_in(kinds)
    schemas = {name: _told(told[name], schema) for name, schema in found.items()}
    status, source = schemas.pop("SourceStatus"), schemas.pop("View")
    fields = source["properties"]
    fields["dropped"] = fields.pop("drops")
    fields |= {name: status["properties"][name] for name in ("live", "url", "credit")}
    fields |= schemas.pop("Beside")["properties"]
    source |= {"title": "Source", "required": sorted(fields)}
    output = schemas.pop("Output_Any_") | {"title": "Output"}
    if "Page" in schemas:
        either = {"anyOf": [_ref("Result"), _ref("Output")]}
        schemas["Page"]["properties"]["results"]["items"] = either
    return {**schemas, "Source": source, "Output": output}


def _types_in(kinds: Iterable[Any]) -> dict[str, type]:
    """All types with fields that are in these, by the names of their schemas."""
    found: dict[str, type] = {}
    left: list[Any] = list(msgspec.inspect.multi_type_info(kinds))
    while left:
        kind = left.pop()
        if isinstance(kind, msgspec.inspect.StructType | msgspec.inspect.DataclassType):
            plain: type = getattr(kind.cls, "__origin__", kind.cls)
            name = "Output_Any_" if plain is Output else plain.__name__
            if name not in found:
                found[name] = plain
                left += [field.type for field in kind.fields]
        for inner in ("item_type", "value_type", "type"):
            left += [getattr(kind, inner)] if hasattr(kind, inner) else []
        for inner in ("item_types", "types"):
            left += getattr(kind, inner, ())
    return found


def _told(kind: type, schema: Schema) -> Schema:
    """The schema with what docstrings tell, field by field."""
    told = meanings(kind)
    fields = {
        name: {**said, **({"description": sentence(told[name])} if name in told else {})}
        for name, said in schema["properties"].items()
    }
    return {**schema, "description": lead(kind.__doc__ or ""), "properties": fields}
