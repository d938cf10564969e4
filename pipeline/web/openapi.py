"""The OpenAPI 3.1 document of /api/v1, made from its routes, their types and their docstrings."""

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
from framegate.pipeline.fleet.recording_places import RecordingPlace
from framegate.pipeline.fleet.served_by import ServedBy
from framegate.pipeline.telemetry.recording_sound_sinks import Beside
from framegate.pipeline.telemetry.run_status import SourceStatus
from framegate.pipeline.telemetry.source_view import View

LIMIT: Final = 100
MAX_LIMIT: Final = 1000

Schema = dict[str, Any]


class Page(msgspec.Struct, frozen=True):
    """Results of a span.

    results  results of each source, in order; outputs if the request names a stage
    next     positions after which to continue: use it as `after`, or as a stream's Last-Event-ID
    more     whether the store already has more results
    """

    results: list[Any]
    next: str
    more: bool


class Trimmed(msgspec.Struct, frozen=True):
    """Results were removed from the store before this reader got them: data of event `trimmed`.

    source  name of the source
    after   last position before the removed results
    before  first position after the removed results
    """

    source: str
    after: str
    before: str


class SourceEnd(msgspec.Struct, frozen=True):
    """The end of a source: data of the event `end`.

    source  name of the source
    frames  frames decoded in its last epoch
    fault   fault that ended it; null: the source was complete
    """

    source: str
    frames: int
    fault: str | None


class ApiFault(msgspec.Struct, frozen=True, omit_defaults=True):
    """The fault of a request that was not done.

    error   the reason, and the allowed values
    places  hosts of the fleet that have what this one lacks
    """

    error: str
    places: Sequence[RecordingPlace] = ()


def _json(schema: Schema) -> Schema:
    return {"application/json": {"schema": schema}}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


class Operation(Route):
    """A route of /api/v1 with its description for the document.

    The first words of the endpoint's docstring are the summary, and all of it is the description.
    """

    def __init__(
        self,
        path: str,
        endpoint: Callable[[Request], Response | Awaitable[Response]],
        takes: Sequence[Schema] = (),
        *,
        gives: Any,
        body: type | None = None,
    ) -> None:
        """Make the route.

        takes  its parameters
        gives  type of the JSON in its responses; or a `media`
        body   type of the JSON that is posted; None: the method is GET
        """
        method = "POST"
        if body is None:
            method = "GET"
        super().__init__(path, endpoint, methods=[method])
        self.takes, self.gives, self.body = takes, gives, body

    def described(self, schema_of: Callable[[Any], Schema]) -> Schema:
        """Return the part of the document about this route. schema_of: of a type."""
        text = " ".join((self.endpoint.__doc__ or "").split())
        content = self.gives
        if not isinstance(content, dict):
            content = _json(schema_of(content))
        refused = {"description": "The request is refused", "content": _json(_ref("ApiFault"))}
        responses: Schema = {"200": {"description": "The request is done", "content": content}}
        if self.takes or self.body:
            responses |= {"400": refused, "404": refused}
        responses |= {
            "401": {"description": "A token is needed"},
            "503": {"description": "Not possible now; try again"},
        }
        operation: Schema = {
            "summary": re.split(r"[;:]|\. |\.$", text)[0],
            "description": text,
            "responses": responses,
        }
        if self.takes:
            operation["parameters"] = list(self.takes)
        if self.body is None:
            return {"get": operation}
        responses |= {"403": refused, "413": refused, "415": refused}
        operation["requestBody"] = {"required": True, "content": _json(schema_of(self.body))}
        return {"post": operation}


def media(kind: str, text: str = "", **schema: str) -> Schema:
    """Return the description of a response that is not JSON. text: its description."""
    described = {"type": "string", **schema}
    if text:
        described["description"] = text
    return {kind: {"schema": described}}


SOURCES: Final[Schema] = _json({"type": "array", "items": _ref("Source")})
"""The response that lists the run's sources."""


def parameter(name: str, text: str, schema: Schema | None = None, place: str = "query") -> Schema:
    """Return the description of a parameter."""
    described: Schema = {
        "name": name,
        "in": place,
        "description": text,
        "schema": schema or {"type": "string"},
    }
    if place == "path":
        described["required"] = True
    return described


_POSITIONS: Final = "SOURCE=EPOCH-SEQ, several with commas between"
SOURCE: Final = parameter("source", "Names, several with commas between; default: all sources")
FROM: Final = parameter("from", f"Begin of the span: {WHEN}")
TO: Final = parameter("to", f"End of the span: {WHEN}")
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
    *(Result, Output[Any], Change, Trimmed, SourceEnd, ApiFault),
    *(View, SourceStatus, Beside, ServedBy),
)
"""The types of faults, of streams of events and of sources, which no route names."""


def document(routes: Iterable[BaseRoute]) -> Schema:
    """Return the document of those routes that are operations."""
    operations = [route for route in routes if isinstance(route, Operation)]
    given = [each.gives for each in operations if not isinstance(each.gives, dict)]
    posted = [each.body for each in operations if each.body is not None]
    kinds = (*_ALWAYS, *given, *posted)
    schemas, components = msgspec.json.schema_components(kinds, ref_template=_ref("{name}")["$ref"])
    by_kind = dict(zip(map(str, kinds), schemas, strict=True))
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Framegate",
            "version": version("framegate"),
            "summary": "Results, episodes and recordings of a run",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": {
            re.sub(r":\w+}", "}", each.path): each.described(lambda kind: by_kind[str(kind)])
            for each in operations
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


def _schemas(kinds: Sequence[Any], components: dict[str, Schema]) -> dict[str, Schema]:
    """Return the schemas with descriptions. That of a source joins its view and its status."""
    types = _types_in(kinds)
    schemas = dict(components)  # a named tuple has no names of fields in JSON
    for name, kind in types.items():
        if name in components:
            schemas[name] = _described(kind, components[name])
    status = schemas.pop("SourceStatus")
    source = schemas.pop("View")
    fields = source["properties"]
    fields["dropped"] = fields.pop("drops")
    fields |= {name: status["properties"][name] for name in ("live", "url", "credit")}
    fields |= schemas.pop("Beside")["properties"]
    fields |= schemas.pop("ServedBy")["properties"]
    source |= {"title": "Source", "required": sorted(fields)}
    output = schemas.pop("Output_Any_") | {"title": "Output"}
    if "Page" in schemas:
        either = {"anyOf": [_ref("Result"), _ref("Output")]}
        schemas["Page"]["properties"]["results"]["items"] = either
    return {**schemas, "Source": source, "Output": output}


def _types_in(kinds: Iterable[Any]) -> dict[str, type]:
    """Return all types with fields in these and in their fields, by the names of their schemas."""
    types: dict[str, type] = {}
    waiting: list[Any] = list(msgspec.inspect.multi_type_info(kinds))
    while waiting:
        kind = waiting.pop()
        if isinstance(kind, msgspec.inspect.StructType | msgspec.inspect.DataclassType):
            plain: type = getattr(kind.cls, "__origin__", kind.cls)
            name = plain.__name__
            if plain is Output:
                name = "Output_Any_"
            if name not in types:
                types[name] = plain
                waiting += [field.type for field in kind.fields]
        # The types in lists, dictionaries, unions and so on, by the attributes of msgspec.inspect.
        for attribute in ("item_type", "value_type", "type"):
            if hasattr(kind, attribute):
                waiting.append(getattr(kind, attribute))
        for attribute in ("item_types", "types"):
            waiting += getattr(kind, attribute, ())
    return types


def _described(kind: type, schema: Schema) -> Schema:
    """Return a schema with the descriptions of the type and of its fields, from its docstring."""
    texts = meanings(kind)
    fields = {}
    for name, field in schema["properties"].items():
        fields[name] = dict(field)
        if name in texts:
            fields[name]["description"] = sentence(texts[name])
    return {**schema, "description": lead(kind.__doc__ or ""), "properties": fields}
