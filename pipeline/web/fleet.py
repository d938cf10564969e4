"""/api/v1/fleet/targets: the HTTP ports of all slots of a fleet, as Prometheus discovers them."""

from __future__ import annotations

from contextlib import closing

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from framegate.pipeline.fleet.fleet_store import FleetStore
from framegate.pipeline.fleet.plan import FleetPlan
from framegate.pipeline.web.limits import JSON, NO_STORE
from framegate.pipeline.web.openapi import Operation


class ScrapeTarget(msgspec.Struct, frozen=True):
    """Addresses with metrics and their common labels, as Prometheus reads them (`http_sd`).

    targets  HOST:PORT
    labels   slot and host
    """

    targets: list[str]
    labels: dict[str, str]


def fleet_routes(store: str) -> list[Route]:
    """Return the routes. store: URL of the store that all slots share"""

    def targets(request: Request) -> Response:  # noqa: ARG001
        """The slots of the fleet for Prometheus (http_sd); those that are up, and whose HTTP port
        other hosts can reach.
        """
        return Response(msgspec.json.encode(targets_of(store)), 200, NO_STORE, JSON)

    return [Operation("/api/v1/fleet/targets", targets, gives=list[ScrapeTarget])]


def targets_of(store: str) -> list[ScrapeTarget]:
    """Return the slots that are up and reachable, by name. StoreLost, StoreBusy, StoreRefused."""
    with closing(FleetStore(store)) as fleet:
        plan = fleet.plan() or FleetPlan()
        signs = fleet.signs(sorted(plan.slots))
    return [
        ScrapeTarget([sign.http], {"slot": slot, "host": sign.host})
        for slot, sign in signs.items()
        if sign.http
    ]
