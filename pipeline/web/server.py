"""The HTTP process: metrics, health, and all other routes of the port.

/metrics      for Prometheus
/healthz      200 while the run lives
/readyz       200 when all workers serve and the store answers, else 503 and the reasons, as JSON
/api/v1       results, episodes, recordings and sources for programs

The class for pictures adds its own routes. access.py decides which requests are allowed. The
process ends when it has had no request for a while.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from framegate.pipeline.contracts.errors import ConfigFaults, FramegateError, NoReply
from framegate.pipeline.contracts.redaction import redacted
from framegate.pipeline.engine.control_line import ControlLine
from framegate.pipeline.system.loading import load, load_builtin
from framegate.pipeline.system.logs import set_up_logging
from framegate.pipeline.system.process import die_with_parent_of, leave
from framegate.pipeline.web.accounts.access import TrustedProxies, guarded
from framegate.pipeline.web.accounts.accounts import AccountFile
from framegate.pipeline.web.accounts.login import accounts_of, login_routes
from framegate.pipeline.web.accounts.sessions import Sessions
from framegate.pipeline.web.api import api_routes
from framegate.pipeline.web.connections import LEAVE_S, BoundedServer, RequestLimit
from framegate.pipeline.web.control.filters import filter_routes
from framegate.pipeline.web.control.like_rules import like_routes
from framegate.pipeline.web.control.live_config import config_routes
from framegate.pipeline.web.control.rules import rule_routes
from framegate.pipeline.web.fleet.fleet import Fleet, fleet_routes
from framegate.pipeline.web.fleet.forward import Forwarder
from framegate.pipeline.web.limits import JSON, LIMITS, NO_STORE, AtOnce, WebLimits, not_served
from framegate.pipeline.web.openapi import SOURCES, Operation
from framegate.pipeline.web.pictures.frames import FrameViews
from framegate.pipeline.web.port import WebSpec
from framegate.pipeline.web.recordings.other_hosts import OtherHosts
from framegate.pipeline.web.recordings.recorded_pictures import RecordedPictures
from framegate.pipeline.web.recordings.recordings import recording_routes
from framegate.pipeline.web.recordings.thumbnails import Thumbnails, thumbnail_routes
from framegate.pipeline.web.review.disagreements import disagreement_routes
from framegate.pipeline.web.review.episodes import episode_routes
from framegate.pipeline.web.review.unseen import unseen_routes
from framegate.pipeline.web.review.visits import visit_routes
from framegate.pipeline.web.route_table import caller_of, with_doors
from framegate.pipeline.web.run_reader import RunReader
from framegate.pipeline.web.tls import PortCertificate

# -- The server of the HTTP process.


class IdleCount:
    """Middleware that measures how long no request has been open."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._open = 0
        self._since_mono = time.monotonic()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the request and count it as open until it is done."""
        self._open += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._open -= 1
            self._since_mono = time.monotonic()

    @property
    def idle_s(self) -> float:
        """Seconds without an open request."""
        if self._open:
            return 0.0
        return time.monotonic() - self._since_mono


class QuietServer(BoundedServer):
    """uvicorn without its ten wake-ups a second.

    It ends on SIGTERM, and after `idle_s` without a request if `may_rest` then returns true.
    """

    def __init__(
        self,
        app: ASGIApp,
        idle_s: float,
        leaving: asyncio.Event | None = None,
        limits: WebLimits = LIMITS,
        certificate: PortCertificate | None = None,
        may_rest: Callable[[], bool] = lambda: True,
    ) -> None:
        """leaving: set when the server is to end, so that endless responses can end too."""
        self._requests = IdleCount(app)
        self._idle_s = idle_s
        self._leaving = leaving or asyncio.Event()
        self._may_rest = may_rest
        super().__init__(self._requests, limits, certificate, timeout_graceful_shutdown=LEAVE_S)

    async def main_loop(self) -> None:
        """Wait for SIGTERM, or until no request was open for `idle_s` and the process may rest."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self._leaving.set)
        while not self._leaving.is_set():
            rest_s = self._idle_s - self._requests.idle_s
            if rest_s <= 0:
                if self._may_rest():
                    return
                rest_s = self._idle_s
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._leaving.wait(), rest_s)


log = logging.getLogger(__name__)


def routes(run: RunReader) -> list[Route]:
    """Return the routes that need no pixels."""

    def metrics(request: Request) -> Response:
        """All metrics, for Prometheus."""
        try:
            encode, kind = choose_encoder(request.headers.get("accept", ""))
        except (TypeError, ValueError):  # a version in the header that is not a number
            encode, kind = choose_encoder("")
        return Response(encode(run.scrape()), headers={**NO_STORE, "Content-Type": kind})

    # A thread for each: other requests may occupy all threads of the pool, and these two routes,
    # which need no token, must neither wait for them nor occupy the pool.
    health = ThreadPoolExecutor(1, "health")
    readiness = ThreadPoolExecutor(1, "readiness")

    async def healthz(request: Request) -> Response:  # noqa: ARG001
        """200 while the run lives."""
        await asyncio.get_running_loop().run_in_executor(health, run.status)
        return PlainTextResponse("alive\n")

    async def readyz(request: Request) -> Response:  # noqa: ARG001
        """200 when all workers serve and the store answers, else 503 and the reasons, as JSON."""
        why = await asyncio.get_running_loop().run_in_executor(readiness, run.unready)
        status = 200
        if why:
            status = 503
        return JSONResponse({"ready": not why, "why": why}, status)

    def sources(request: Request) -> Response:
        """Each source as JSON: state, rates, latency, drops by reason, objects a frame. A slot of a
        fleet lists the sources of all slots.
        """
        caller = caller_of(request)
        listed = [each for each in run.views() if caller.sees(each["source"])]
        return Response(msgspec.json.encode(listed), 200, NO_STORE, JSON)

    return [
        Route("/metrics", metrics),
        Route("/healthz", healthz),
        Route("/readyz", readyz),
        Operation("/api/v1/sources", sources, gives=SOURCES),
    ]


def make_app(
    line: ControlLine,
    spec: WebSpec,
    leaving: asyncio.Event,
    limits: WebLimits,
    sessions: Sessions | None = None,
) -> Starlette:
    """Return the application with all routes.

    If the class for pictures cannot be loaded, the application has no pictures and logs the error.
    """
    frames = FrameViews(line)
    forwarder = Forwarder(limits.forwarded)
    fleet = None
    if spec.slot:
        fleet = Fleet(spec.store, spec.slot, forwarder)
    run = RunReader(line, spec.store, frames, Path(spec.folder), fleet)
    streams = AtOnce(limits.streams, "streams")
    all_routes = routes(run)
    all_routes += api_routes(spec.store, run.names, leaving, streams, spec.stages)
    all_routes += filter_routes(Path(spec.folder), spec.store, run.ask_filters)
    all_routes += login_routes(sessions)
    all_routes += fleet_routes(spec.store)
    all_routes += rule_routes(spec.store, run.names, limits)
    recorded: RecordedPictures | None = None
    elsewhere = OtherHosts(spec.store, Path(spec.folder), forwarder)
    try:
        kind: Callable[..., Any] = load(spec.pictures)
        folder = Path(spec.folder)
        pictures = kind(
            frames.frame_store, spec.store, run.missing_pictures, spec.blur_faces, folder
        )
        all_routes += pictures.routes(streams, fleet)
        recorded = RecordedPictures(folder, pictures.recorded, spec.blur_faces, spec.masked)
        recorded.start()
        all_routes += thumbnail_routes(Thumbnails(folder, pictures.thumbnail), elsewhere)
    except Exception:
        log.exception("no pictures are served: %s cannot be loaded", spec.pictures)
    all_routes += episode_routes(Path(spec.folder), spec.store, recorded, fleet)
    all_routes += disagreement_routes(Path(spec.folder))
    all_routes += visit_routes(Path(spec.folder), recorded)
    all_routes += unseen_routes(Path(spec.folder), run.drops)
    all_routes += like_routes(spec.config, run.ask_config)
    all_routes += config_routes(run.ask_config)
    all_routes += recording_routes(
        Path(spec.folder),
        _write_clip,
        recorded,
        limits,
        spec.free_bytes,
        elsewhere,
    )
    return Starlette(
        routes=with_doors(all_routes),
        exception_handlers={FramegateError: _unavailable, HTTPException: not_served},
    )


def _write_clip(*arguments: Any) -> None:
    load_builtin("write_clip")(*arguments)  # at the first clip: it imports the decoder's libraries


def _unavailable(request: Request, error: Exception) -> Response:  # noqa: ARG001
    level = logging.DEBUG
    if isinstance(error, NoReply):
        level = logging.WARNING
    log.log(level, "%s", error)
    return PlainTextResponse(f"{redacted(str(error))}\n", 503, NO_STORE)


def are_sound(accounts: AccountFile | None, certificate: PortCertificate | None) -> bool:
    """Return whether the next process can read these files, as they are now.

    While it cannot, this process must not end: it has what they contained before.
    """
    is_faulty = False
    if accounts is not None:
        accounts.accounts()
        is_faulty = accounts.is_faulty
    if certificate is not None:
        certificate.context()
        is_faulty = is_faulty or certificate.is_faulty
    return not is_faulty


def main() -> int:
    """Serve the port until it is idle.

    Arguments: descriptor of the control socket, process id of the supervisor, descriptor of the
    listening socket. Standard input: a WebSpec as JSON.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent_of(int(sys.argv[2]))
    listening = socket.socket(fileno=int(sys.argv[3]))
    line = ControlLine(socket.socket(fileno=int(sys.argv[1])))
    spec = msgspec.json.decode(sys.stdin.buffer.read(), type=WebSpec)
    set_up_logging(spec.log_level, "http", spec.log_format)
    leaving = asyncio.Event()
    limits = WebLimits.within(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    accounts, sessions = accounts_of(spec)
    limited = RequestLimit(make_app(line, spec, leaving, limits, sessions), limits.requests)
    app = guarded(
        limited,
        listening,
        spec.token_sha256,
        spec.origins,
        accounts,
        sessions,
        TrustedProxies(spec.proxies, spec.proxy_user, spec.proxy_groups),
    )
    certificate: PortCertificate | None = None
    try:
        if spec.certificate:
            certificate = PortCertificate(spec.certificate, spec.certificate_key or None)
    except ConfigFaults as faults:
        log.error("%s", "; ".join(faults.faults))  # never without TLS instead
        return 1
    may_rest = functools.partial(are_sound, accounts, certificate)
    server = QuietServer(app, spec.idle_s, leaving, limits, certificate, may_rest)
    asyncio.run(server.serve([listening]))
    return 0


if __name__ == "__main__":
    leave(main())
