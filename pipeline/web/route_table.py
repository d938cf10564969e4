"""The table of all routes of the HTTP port: the role that each needs, and how sources are filtered.

A route without a row is refused when the server starts, so no route can be open by mistake.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import urlencode

from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from framegate.pipeline.web.accounts.accounts import CALLER, Caller, Role
from framegate.pipeline.web.limits import Refusal, refused

SourceFilter = Literal["open", "nothing", "path", "episode", "query", "endpoint", "whole"]
"""How a route shows a caller only the sources that it may see.

open      no caller: the route needs no token, and shows nothing of a source
nothing   the route shows nothing of a source
path      `{source}` in the path names the only source
episode   `{id}` in the path is the id of an episode, which begins with its source
query     `source` in the query names the sources; without it, the caller's sources are inserted
endpoint  the endpoint filters its answer itself, by `caller_of(request)`
whole     the answer is about all sources, so only callers that may see all of them get it
"""


@dataclass(frozen=True)
class RouteRow:
    """The row of a route. role: the least that the caller needs"""

    role: Role
    filter: SourceFilter


_OPEN: Final = RouteRow("viewer", "open")
_PAGE: Final = RouteRow("viewer", "nothing")

ROUTES: Final[Mapping[str, RouteRow]] = {
    # Health, metrics and pages. A page has no data: it requests them as its reader.
    "GET /healthz": _OPEN,
    "GET /readyz": _OPEN,
    "GET /metrics": RouteRow("viewer", "whole"),
    "GET /": _PAGE,
    "GET /review": _PAGE,
    "GET /recordings": _PAGE,
    "GET /unseen": _PAGE,
    "GET /rules": _PAGE,
    "GET /visits": _PAGE,
    "GET /disagreements": _PAGE,
    "GET /api/v1/openapi.json": _PAGE,
    # Accounts.
    "GET /login": _OPEN,
    "POST /api/v1/login": _OPEN,
    "POST /api/v1/logout": _PAGE,
    "GET /api/v1/account": _PAGE,
    # Pictures and results.
    "GET /snapshot/{source}.jpg": RouteRow("viewer", "path"),
    "GET /stream/{source}.mjpg": RouteRow("viewer", "path"),
    "GET /live": RouteRow("viewer", "endpoint"),
    "GET /sensitivity/{source}.json": RouteRow("viewer", "path"),
    "GET /sensitivity/{source}.png": RouteRow("viewer", "path"),
    "GET /api/v1/sources": RouteRow("viewer", "endpoint"),
    "GET /api/v1/results": RouteRow("viewer", "endpoint"),
    "GET /api/v1/results/stream": RouteRow("viewer", "endpoint"),
    "GET /api/v1/fleet/recordings": RouteRow("viewer", "endpoint"),
    "GET /api/v1/fleet/targets": RouteRow("viewer", "whole"),
    # Episodes and verdicts.
    "GET /api/v1/episodes": RouteRow("viewer", "query"),
    "GET /api/v1/episodes/live": RouteRow("viewer", "endpoint"),
    "GET /api/v1/episodes/{id}": RouteRow("viewer", "episode"),
    "POST /api/v1/episodes/{id}/verdict": RouteRow("reviewer", "episode"),
    "GET /api/v1/episodes/{id}/object": RouteRow("viewer", "episode"),
    "POST /api/v1/episodes/{id}/object/hidden": RouteRow("operator", "episode"),
    "GET /api/v1/counts": RouteRow("viewer", "query"),
    "GET /api/v1/seen": RouteRow("viewer", "endpoint"),
    "GET /api/v1/unseen": RouteRow("viewer", "query"),
    "GET /api/v1/disagreements": RouteRow("viewer", "query"),
    "GET /api/v1/verdicts": RouteRow("viewer", "endpoint"),
    "GET /api/v1/verdicts/filter": RouteRow("viewer", "query"),
    "POST /api/v1/verdicts/filter/on": RouteRow("operator", "endpoint"),
    # Visits and changes.
    "GET /api/v1/visits": RouteRow("viewer", "endpoint"),
    "GET /api/v1/visits/marks": RouteRow("viewer", "endpoint"),
    "POST /api/v1/visits/mark": RouteRow("reviewer", "endpoint"),
    "GET /api/v1/visits/rule": RouteRow("viewer", "whole"),
    "GET /api/v1/visits/rule/file": RouteRow("viewer", "whole"),
    "POST /api/v1/visits/rule/on": RouteRow("operator", "whole"),
    "GET /api/v1/changes": RouteRow("viewer", "query"),
    "GET /api/v1/changes/{source}/activity": RouteRow("viewer", "path"),
    # Rules and filters.
    "POST /api/v1/rules/trial": RouteRow("reviewer", "endpoint"),
    "GET /api/v1/config": RouteRow("operator", "whole"),
    "POST /api/v1/config/change": RouteRow("operator", "whole"),
    "POST /api/v1/config/undo": RouteRow("operator", "whole"),
    "POST /api/v1/config/reload": RouteRow("operator", "whole"),
    "POST /api/v1/config/profile": RouteRow("operator", "whole"),
    "POST /api/v1/config/snooze": RouteRow("operator", "whole"),
    "GET /api/v1/filters": RouteRow("viewer", "endpoint"),
    "POST /api/v1/filters/{name}": RouteRow("operator", "whole"),
    # Recordings.
    "GET /api/v1/recordings": RouteRow("viewer", "endpoint"),
    "GET /api/v1/recordings/{source}": RouteRow("viewer", "path"),
    "GET /api/v1/recordings/{source}/playlist.m3u8": RouteRow("viewer", "path"),
    "GET /api/v1/recordings/{source}/clip.mp4": RouteRow("viewer", "path"),
    "GET /api/v1/recordings/{source}/picture.jpg": RouteRow("viewer", "path"),
    "GET /api/v1/recordings/{source}/thumbnail.jpg": RouteRow("viewer", "path"),
    "GET /api/v1/recordings/{source}/init/{digest}.mp4": RouteRow("viewer", "path"),
    "GET /api/v1/recordings/{source}/{epoch}/{day}/{name}.m4s": RouteRow("viewer", "path"),
}
"""The rows, by `METHOD PATH` as the route has it, without the types of its parameters."""


class RouteWithoutRow(Exception):
    """A route that the table does not have. The message states the row to add."""


def caller_of(request: Request) -> Caller:
    """Return the caller of a request, which the door of the port has put there."""
    caller: Caller = request.scope[CALLER]
    return caller


def with_doors(routes: Sequence[Route]) -> list[Route]:
    """Put the check of its row before each route, and return the routes. RouteWithoutRow."""
    for route in routes:
        for key in keys_of(route):
            if key not in ROUTES:
                raise RouteWithoutRow(
                    f"{key}: this route has no row; add to ROUTES in pipeline/web/route_table.py: "
                    f'"{key}": RouteRow(ROLE, FILTER), and a request to tests/web/test_auth.py'
                )
        [key] = keys_of(route)
        route.app = _RouteDoor(route.app, ROUTES[key])
    return list(routes)


def keys_of(route: Route) -> list[str]:
    """Return the keys of a route in the table; HEAD belongs to GET."""
    path = route.path_format
    return [f"{method} {path}" for method in sorted(route.methods or ()) if method != "HEAD"]


class _RouteDoor:
    """The check of role and source before an endpoint."""

    def __init__(self, app: ASGIApp, access: RouteRow) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._access.filter != "open":
            try:
                scope = _allowed(scope, self._access)
            except Refusal as error:
                await refused(error)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _allowed(scope: Scope, access: RouteRow) -> Scope:
    """Return the scope of an allowed request. Refusal."""
    caller: Caller = scope[CALLER]
    if not caller.may(access.role):
        raise Refusal(
            403,
            f"the account {caller.name} has the role {caller.role}; this needs {access.role}",
        )
    if caller.sources is None or access.filter in ("nothing", "endpoint"):
        return scope
    if access.filter == "whole":
        raise Refusal(
            403,
            f"the account {caller.name} sees only {', '.join(sorted(caller.sources))}; this needs "
            "an account without `sources`, because it is about all sources",
        )
    if access.filter == "query":
        return _with_sources(scope, caller)
    name = scope["path_params"].get("source")
    if access.filter == "episode":
        name = source_of_id(scope["path_params"]["id"])
    check_seen(caller, [name])
    return scope


def source_of_id(id_: str) -> str:
    """Return the source of an episode or a visit, with which its id begins."""
    return id_.partition("/")[0]


def check_seen(caller: Caller, sources: Sequence[str]) -> None:
    """Raise Refusal if the caller may not see one of the sources, or it does not exist."""
    for name in sources:
        if not caller.sees(name):
            raise Refusal(404, f"the account {caller.name} sees no source {name[:32]!r}")


def _with_sources(scope: Scope, caller: Caller) -> Scope:
    """Return a scope whose query names only sources that the caller may see. Refusal."""
    query = QueryParams(scope["query_string"])
    named = [name for name in ",".join(query.getlist("source")).split(",") if name]
    check_seen(caller, named)
    if named:
        return scope
    others = [(key, value) for key, value in query.multi_items() if key != "source"]
    all_seen = ",".join(sorted(caller.sources or ()))
    return {**scope, "query_string": urlencode([*others, ("source", all_seen)]).encode()}
