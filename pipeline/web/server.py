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
import logging
import math
import os
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from framegate.pipeline.contracts.drops import drops_of
from framegate.pipeline.contracts.errors import (
    ConfigFaults,
    FramegateError,
    NoReply,
    StoreBusy,
    StoreLost,
)
from framegate.pipeline.contracts.live_config import ConfigRequest, EditableConfig
from framegate.pipeline.contracts.object_filters import FilterList, FilterRequest
from framegate.pipeline.contracts.redaction import redacted, shown
from framegate.pipeline.engine.control_line import ControlLine
from framegate.pipeline.engine.control_messages import GetStatus
from framegate.pipeline.fleet.served_by import ServedBy
from framegate.pipeline.store.redis_client import connect, store_errors
from framegate.pipeline.system.loading import load, load_builtin
from framegate.pipeline.system.logs import set_up_logging
from framegate.pipeline.system.process import ProcessUse, die_with_parent_of, leave, process_use
from framegate.pipeline.telemetry.metrics import Scrape
from framegate.pipeline.telemetry.recording_sound_sinks import Beside, look_beside
from framegate.pipeline.telemetry.run_status import RunStatus, SourceStatus
from framegate.pipeline.telemetry.source_view import Sample, View, Viewer, view
from framegate.pipeline.web.access import TrustedProxies, guarded
from framegate.pipeline.web.api import api_routes
from framegate.pipeline.web.connections import LEAVE_S, BoundedServer, RequestLimit
from framegate.pipeline.web.disagreements import disagreement_routes
from framegate.pipeline.web.episodes import episode_routes
from framegate.pipeline.web.filters import filter_routes
from framegate.pipeline.web.fleet import Fleet, fleet_routes
from framegate.pipeline.web.forward import Forwarder
from framegate.pipeline.web.frames import FrameViews
from framegate.pipeline.web.like_rules import like_routes
from framegate.pipeline.web.limits import LIMITS, AtOnce, WebLimits
from framegate.pipeline.web.live_config import config_routes
from framegate.pipeline.web.login import accounts_of, login_routes
from framegate.pipeline.web.openapi import SOURCES, Operation
from framegate.pipeline.web.port import WebSpec
from framegate.pipeline.web.recorded_pictures import RecordedPictures
from framegate.pipeline.web.recordings import OtherHosts, recording_routes
from framegate.pipeline.web.route_table import caller_of, with_doors
from framegate.pipeline.web.rules import rule_routes
from framegate.pipeline.web.sessions import Sessions
from framegate.pipeline.web.thumbnails import Thumbnails, thumbnail_routes
from framegate.pipeline.web.tls import PortCertificate
from framegate.pipeline.web.unseen import unseen_routes
from framegate.pipeline.web.visits import visit_routes

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
    """uvicorn without its ten wake-ups a second. It ends on SIGTERM and after `idle_s` of rest."""

    def __init__(
        self,
        app: ASGIApp,
        idle_s: float,
        leaving: asyncio.Event | None = None,
        limits: WebLimits = LIMITS,
        certificate: PortCertificate | None = None,
    ) -> None:
        """leaving: set when the server is to end, so that endless responses can end too."""
        self._requests = IdleCount(app)
        self._idle_s = idle_s
        self._leaving = leaving or asyncio.Event()
        super().__init__(self._requests, limits, certificate, timeout_graceful_shutdown=LEAVE_S)

    async def main_loop(self) -> None:
        """Wait for SIGTERM, or until no request was open for `idle_s`."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self._leaving.set)
        while not self._leaving.is_set():
            rest_s = self._idle_s - self._requests.idle_s
            if rest_s <= 0:
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._leaving.wait(), rest_s)


log = logging.getLogger(__name__)

ANSWER_S = 5.0
FRESH_S = 1.0
_NO_STORE = {"Cache-Control": "no-store"}


class RunReader:
    """The state of the run, from its supervisor and its store. Methods may run in any thread."""

    def __init__(
        self,
        line: ControlLine,
        store: str,
        frames: FrameViews,
        data: Path | None = None,
        fleet: Fleet | None = None,
    ) -> None:
        """Keep the parts.

        data   the run's folder
        fleet  the fleet of which the run is a slot; None: it is none
        """
        self._line = line
        self._fleet = fleet
        self._url = store
        self._frames = frames
        self._data = data
        self._lock = threading.Lock()
        self._looking = threading.Lock()  # its own: a store that hangs must not block /healthz
        self._viewer: Viewer | None = None
        self._status: RunStatus | None = None
        self._asked_mono = 0.0
        self._checking = threading.Lock()
        self._store_fault: str | None = None
        self._checked_mono = -math.inf

    def status(self) -> RunStatus:
        """Return the state of the run, at most FRESH_S old. NoReply if the supervisor is silent."""
        with self._lock:
            now = time.monotonic()
            if self._status is None or now - self._asked_mono > FRESH_S:
                self._status = self._line.ask(GetStatus(), RunStatus, ANSWER_S)
                self._asked_mono = now
                self._frames.take_sources(self._status.sources)
            return self._status

    def ask_filters(self, request: FilterRequest) -> FilterList:
        """Return the object filters, after a change. RequestRefused; NoReply."""
        return self._line.ask(request, FilterList, ANSWER_S)

    def ask_config(self, request: ConfigRequest) -> EditableConfig:
        """Return the configuration of the run, after a change. RequestRefused; NoReply."""
        return self._line.ask(request, EditableConfig, ANSWER_S)

    def own_names(self) -> list[str]:
        """Return the names of the run's sources. NoReply."""
        return [source.name for source in self.status().sources]

    def names(self) -> list[str]:
        """Return the names of the run's sources, or of those of its whole fleet. NoReply."""
        return self.own_names() + self._others()

    def _others(self) -> list[str]:
        """Return the sources of the fleet that this run does not serve. NoReply."""
        if self._fleet is None:
            return []
        return self._fleet.others(self.own_names())

    def views(self) -> list[dict[str, Any]]:
        """Return the sources as the live page and the API give them, with their rates since the
        last call; for a slot, those of the whole fleet. StoreLost, StoreBusy.
        """
        status = self.status()
        own = [source.name for source in status.sources]
        others = self._others()
        with self._looking, store_errors(self._url):
            views = self._connected().look([*own, *others])
            beside = self._beside(self._connected().client, status)
        listed = [
            as_json(view, source, beside[source.name], self._served_here())
            for view, source in zip(views, status.sources, strict=False)
        ]
        return listed + [self._elsewhere(view) for view in views[len(own) :]]

    def _served_here(self) -> ServedBy:
        if self._fleet is None:
            return ServedBy()
        return self._fleet.served_here()

    def _elsewhere(self, view: View) -> dict[str, Any]:
        """Return a source of another slot, with its state from the store."""
        assert self._fleet is not None
        now = self._fleet.look()
        url = ""
        planned = now.plan.sources.get(view.source)
        if planned is not None:
            url = shown(str(planned.keys.get("url", "")))
        is_camera = view.since is not None
        source = SourceStatus(view.source, url, is_camera, 0, 0, 0, 0)
        served = now.served_by(view.source)
        if served.away:
            view = replace(view, fps=None)  # that of the time before
        return as_json(view, source, Beside(), served)

    def _beside(self, client: Any, status: RunStatus) -> dict[str, Beside]:
        names = [source.name for source in status.sources]
        hears = {source.name for source in status.sources if source.hears}
        return look_beside(client, self._data, names, status.sinks, hears)

    def _connected(self) -> Viewer:
        if self._viewer is None:
            self._viewer = Viewer(self._url)
        return self._viewer

    def missing_pictures(self) -> Mapping[str, str]:
        """Return, by source, the fault that may explain a missing picture; "" if there is none.

        Unlike `views`, this does not begin a new period for rates.
        """
        names = [source.name for source in self.status().sources]
        faults = dict.fromkeys(names, "")
        try:
            with self._looking:
                views = [view(name, None, self._connected().sample(name)) for name in names]
        except FramegateError:
            return faults
        faults |= {each.source: f"{each.state}: {each.fault}" for each in views if each.fault}
        return faults

    def drops(self) -> dict[str, dict[str, int]]:
        """Return the dropped frames of each camera of the run, by reason. NoReply, StoreLost,
        StoreBusy.
        """
        cameras = [source.name for source in self.status().sources if source.live]
        with self._looking, store_errors(self._url):
            counters = {name: self._connected().sample(name).counters for name in cameras}
        return {name: drops_of(counts) for name, counts in counters.items()}

    def scrape(self) -> Scrape:
        """Return all measurements, or those of the supervisor if the store fails. NoReply."""
        status = self.status()
        try:
            samples, info, beside = self._read(status)
        except (StoreLost, StoreBusy):
            without = Scrape(status, {}, [], {}, {}, _uses(status), _own_use(), None)
            return replace(without, folder=str(self._data or ""))
        views = [view(name, None, sample) for name, sample in samples.items()]
        running = [each.source for each in views if each.state == "running"]
        labels = {name: _labels(samples[name]) for name in running}
        return Scrape(
            status=status,
            counters={name: sample.counters for name, sample in samples.items()},
            views=views,
            models={n: s.results[0].models for n, s in samples.items() if s.results},
            labels={name: seen for name, seen in labels.items() if seen is not None},
            uses=_uses(status),
            own=_own_use(),
            store=info,
            beside=beside,
            folder=str(self._data or ""),
        )

    def _read(
        self, status: RunStatus
    ) -> tuple[dict[str, Sample], dict[str, Any], dict[str, Beside]]:
        with store_errors(self._url), closing(Viewer(self._url)) as viewer:
            samples = {source.name: viewer.sample(source.name) for source in status.sources}
            return samples, viewer.client.info(), self._beside(viewer.client, status)

    def unready(self) -> list[str]:
        """Return the reasons why the run is not ready; none if it is ready. NoReply.

        The check of the store is at most FRESH_S old.
        """
        with self._checking:
            if time.monotonic() - self._checked_mono > FRESH_S:
                self._store_fault = self._ping()
                self._checked_mono = time.monotonic()
            fault = self._store_fault
        why = list(self.status().unready)
        if fault is not None:
            why.append(fault)
        return why

    def _ping(self) -> str | None:
        """Return the fault of a store that does not answer, or None."""
        try:
            with store_errors(self._url), connect(self._url) as client:
                client.ping()
        except FramegateError as error:
            return redacted(str(error))
        return None


def _labels(sample: Sample) -> list[str] | None:
    """Return the labels of the newest result that did not fail; None if there is none."""
    for result in sample.results:
        if result.outcome != "failed":
            return [each.label for each in result.objects]
    return None


def _uses(status: RunStatus) -> dict[str, ProcessUse]:
    uses = {each.name: process_use(each.pid) for each in status.workers if each.pid is not None}
    return {name: use for name, use in uses.items() if use is not None}


def _own_use() -> ProcessUse | None:
    """Return the use of the supervisor, which is the parent of this process."""
    return process_use(os.getppid())


def routes(run: RunReader) -> list[Route]:
    """Return the routes that need no pixels."""

    def metrics(request: Request) -> Response:
        """All metrics, for Prometheus."""
        try:
            encode, kind = choose_encoder(request.headers.get("accept", ""))
        except (TypeError, ValueError):  # a version in the header that is not a number
            encode, kind = choose_encoder("")
        return Response(encode(run.scrape()), headers={**_NO_STORE, "Content-Type": kind})

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
        return Response(msgspec.json.encode(listed), 200, _NO_STORE, "application/json")

    return [
        Route("/metrics", metrics),
        Route("/healthz", healthz),
        Route("/readyz", readyz),
        Operation("/api/v1/sources", sources, gives=SOURCES),
    ]


def as_json(view: View, source: SourceStatus, beside: Beside, served: ServedBy) -> dict[str, Any]:
    """Return a source as the live page and the API give it."""
    if view.promise is not None:  # msgspec.Raw has no builtin form
        promise = msgspec.structs.replace(view.promise, declared=(), closed=())
        view = replace(view, promise=promise)
    fields: dict[str, Any] = msgspec.to_builtins(view)
    fields["dropped"] = fields.pop("drops")
    fields |= {"live": source.live, "url": source.url, "credit": source.credit}
    return {**fields, **msgspec.to_builtins(beside), **msgspec.to_builtins(served)}


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
    forwarder = Forwarder(AtOnce(limits.forwarded, "requests to other hosts"))
    fleet = None
    if spec.slot:
        fleet = Fleet(spec.store, spec.slot, forwarder)
    run = RunReader(line, spec.store, frames, Path(spec.folder), fleet)
    streams = AtOnce(limits.streams, "streams")
    all_routes = routes(run) + api_routes(spec.store, run.names, leaving, streams)
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
        routes=with_doors(all_routes), exception_handlers={FramegateError: _unavailable}
    )


def _write_clip(*arguments: Any) -> None:
    load_builtin("write_clip")(*arguments)  # at the first clip: it imports the decoder's libraries


def _unavailable(request: Request, error: Exception) -> Response:  # noqa: ARG001
    level = logging.DEBUG
    if isinstance(error, NoReply):
        level = logging.WARNING
    log.log(level, "%s", error)
    return PlainTextResponse(f"{redacted(str(error))}\n", 503, _NO_STORE)


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
    certificate = None
    try:
        if spec.certificate:
            certificate = PortCertificate(spec.certificate, spec.certificate_key or None)
    except ConfigFaults as faults:
        log.error("%s", "; ".join(faults.faults))  # never without TLS instead
        return 1
    asyncio.run(QuietServer(app, spec.idle_s, leaving, limits, certificate).serve([listening]))
    return 0


if __name__ == "__main__":
    leave(main())
