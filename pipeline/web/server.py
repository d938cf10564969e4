"""The HTTP process: metrics, health, and what the page needs; quiet while nobody asks.

/metrics      for Prometheus
/healthz      200 while the run lives
/readyz       200 when all workers serve and the store answers, else 503 and why, as JSON
/api/v1       results and sources for programs: api.py
and the routes of the class that serves pictures. Who may ask is access.py's.
"""

from __future__ import annotations

import asyncio
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

from framegate.pipeline.contracts.errors import FramegateError, NoReply, StoreBusy, StoreLost
from framegate.pipeline.contracts.redaction import redacted
from framegate.pipeline.contracts.source import Request as SourceRequest
from framegate.pipeline.contracts.spec import SourceSpec
from framegate.pipeline.engine.control import ControlLine, GetStatus
from framegate.pipeline.store.client import connect, store_errors
from framegate.pipeline.system.loading import load, load_builtin
from framegate.pipeline.system.logs import set_up_logging
from framegate.pipeline.system.process import ProcessUse, die_with_parent_of, process_use
from framegate.pipeline.telemetry.beside import Beside, look_beside
from framegate.pipeline.telemetry.metrics import Scrape
from framegate.pipeline.telemetry.run_status import RunStatus, SourceStatus
from framegate.pipeline.telemetry.view import Sample, View, Viewer, view
from framegate.pipeline.web.access import guarded
from framegate.pipeline.web.api import api_routes
from framegate.pipeline.web.connections import LEAVE_S, BoundedServer, RequestLimit
from framegate.pipeline.web.episodes import episode_routes
from framegate.pipeline.web.frames import FrameViews
from framegate.pipeline.web.limits import LIMITS, AtOnce, WebLimits
from framegate.pipeline.web.openapi import SOURCES, Operation
from framegate.pipeline.web.port import WebSpec
from framegate.pipeline.web.recordings import recording_routes
from framegate.pipeline.web.rules import rule_routes

# -- The server of the HTTP process: quiet while nobody asks, and gone after a while of that.


class IdleCount:
    """Counts open requests, and since when there are none."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._open = 0
        self._since_mono = time.monotonic()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass it on."""
        self._open += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._open -= 1
            self._since_mono = time.monotonic()

    @property
    def idle_s(self) -> float:
        """Seconds without an open request."""
        return 0.0 if self._open else time.monotonic() - self._since_mono


class QuietServer(BoundedServer):
    """uvicorn without its ten ticks a second. It ends on SIGTERM, and when nobody asks any more."""

    def __init__(
        self,
        app: ASGIApp,
        idle_s: float,
        leaving: asyncio.Event | None = None,
        limits: WebLimits = LIMITS,
    ) -> None:
        """leaving: set once it is to end, for requests that would go on for ever."""
        self._requests, self._idle_s = IdleCount(app), idle_s
        self._leaving = leaving or asyncio.Event()
        super().__init__(self._requests, limits, timeout_graceful_shutdown=LEAVE_S)

    async def main_loop(self) -> None:
        """Wait for the end."""
        ordered = self._leaving
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ordered.set)
        while not ordered.is_set() and (rest_s := self._idle_s - self._requests.idle_s) > 0:
            try:
                await asyncio.wait_for(ordered.wait(), rest_s)
            except TimeoutError:
                continue


log = logging.getLogger(__name__)

ANSWER_S = 5.0
FRESH_S = 1.0
_NO_STORE = {"Cache-Control": "no-store"}


class RunReader:
    """What the store and the supervisor know. Any thread, one at a time."""

    def __init__(
        self, line: ControlLine, store: str, frames: FrameViews, data: Path | None = None
    ) -> None:
        """data: the run's folder."""
        self._line, self._url, self._frames, self._data = line, store, frames, data
        self._lock = threading.Lock()
        self._looking = threading.Lock()  # apart: a store that hangs must not hold up health
        self._viewer: Viewer | None = None
        self._status: RunStatus | None = None
        self._asked_mono = 0.0
        self._checking = threading.Lock()
        self._store_fault: str | None = None
        self._checked_mono = -math.inf

    def status(self) -> RunStatus:
        """How the run is, at most a second ago. NoReply if nobody says."""
        with self._lock:
            now = time.monotonic()
            if self._status is None or now - self._asked_mono > FRESH_S:
                self._status = self._line.ask(GetStatus(), RunStatus, ANSWER_S)
                self._asked_mono = now
                self._frames.take_sources([_spec(source) for source in self._status.sources])
            return self._status

    def names(self) -> list[str]:
        """Names of the run's sources. NoReply."""
        return [source.name for source in self.status().sources]

    def views(self) -> list[tuple[View, SourceStatus, Beside]]:
        """The run's sources, each with its rates of late. StoreLost, StoreBusy."""
        status = self.status()
        with self._looking, store_errors(self._url):
            views = self._there().look([source.name for source in status.sources])
            beside = self._beside(self._there().client, status)
        return [
            (view, source, beside[source.name])
            for view, source in zip(views, status.sources, strict=True)
        ]

    def _beside(self, client: Any, status: RunStatus) -> dict[str, Beside]:
        names = [source.name for source in status.sources]
        hears = {source.name for source in status.sources if source.hears}
        return look_beside(client, self._data, names, status.sinks, hears)

    def _there(self) -> Viewer:
        if self._viewer is None:
            self._viewer = Viewer(self._url)
        return self._viewer

    def missing_pictures(self) -> Mapping[str, str]:
        """The run's sources, with why there may be no picture; leaves `views` its rates."""
        names = [source.name for source in self.status().sources]
        try:
            with self._looking:
                views = [view(name, None, self._there().sample(name)) for name in names]
        except FramegateError:
            return dict.fromkeys(names, "")
        return {v.source: f"{v.state}: {v.fault}" if v.fault else "" for v in views}

    def scrape(self) -> Scrape:
        """All that is measured; without a store that answers, the rest. NoReply."""
        status = self.status()
        try:
            samples, info, beside = self._read(status)
        except (StoreLost, StoreBusy):
            without = Scrape(status, {}, [], {}, {}, _uses(status), _own_use(), None)
            return replace(without, folder=str(self._data or ""))
        views = [view(name, None, sample) for name, sample in samples.items()]
        running = {v.source: samples[v.source] for v in views if v.state == "running"}
        return Scrape(
            status=status,
            counters={name: sample.counters for name, sample in samples.items()},
            views=views,
            models={n: s.results[0].models for n, s in samples.items() if s.results},
            labels={name: seen for name, s in running.items() if (seen := _labels(s)) is not None},
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
        """Return why the run is not ready; empty if it is. A second old at most. NoReply."""
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
        """Return why the store does not answer, None if it does."""
        try:
            with store_errors(self._url), connect(self._url) as client:
                client.ping()
        except FramegateError as error:
            return redacted(str(error))
        return None


def _labels(sample: Sample) -> list[str] | None:
    """Labels of what was seen last; None if nothing was looked at: that is not nothing."""
    for result in sample.results:
        if result.outcome != "failed":
            return [one.label for one in result.objects]
    return None


def _spec(source: Any) -> SourceSpec:
    return SourceSpec(
        source.name, SourceRequest("", source.live), source.past, source.credit, source.slots, ""
    )


def _uses(status: RunStatus) -> dict[str, ProcessUse]:
    found = {w.name: process_use(w.pid) for w in status.workers if w.pid is not None}
    return {name: use for name, use in found.items() if use is not None}


def _own_use() -> ProcessUse | None:
    """The supervisor's: it has started this process, which dies with it."""
    return process_use(os.getppid())


def routes(run: RunReader) -> list[Route]:
    """The routes that need no pixels."""

    def metrics(request: Request) -> Response:
        """All metrics, for Prometheus."""
        try:
            encode, kind = choose_encoder(request.headers.get("accept", ""))
        except (TypeError, ValueError):  # it asks for a version that is none
            encode, kind = choose_encoder("")
        return Response(encode(run.scrape()), headers={**_NO_STORE, "Content-Type": kind})

    # A thread each of their own: other requests may take all threads, and these two, which need no
    # token, must not.
    health, readiness = (ThreadPoolExecutor(1, name) for name in ("health", "readiness"))

    async def healthz(request: Request) -> Response:  # noqa: ARG001
        """200 while the run lives."""
        await asyncio.get_running_loop().run_in_executor(health, run.status)
        return PlainTextResponse("alive\n")

    async def readyz(request: Request) -> Response:  # noqa: ARG001
        """200 when all workers serve and the store answers, else 503 and why, as JSON."""
        why = await asyncio.get_running_loop().run_in_executor(readiness, run.unready)
        return JSONResponse({"ready": not why, "why": why}, 503 if why else 200)

    def sources(request: Request) -> Response:  # noqa: ARG001
        """Each source as JSON: state, rates, latency, drops by reason, objects a frame."""
        listed = [as_json(*each) for each in run.views()]
        return Response(msgspec.json.encode(listed), 200, _NO_STORE, "application/json")

    return [
        Route("/metrics", metrics),
        Route("/healthz", healthz),
        Route("/readyz", readyz),
        Operation("/api/v1/sources", sources, gives=SOURCES),
    ]


def as_json(view: View, source: SourceStatus, beside: Beside) -> dict[str, Any]:
    """One source as the page and programs get it."""
    if view.promise is not None:  # what is declared and closed is no JSON yet
        news = msgspec.structs.replace(view.promise, declared=(), closed=())
        view = replace(view, promise=news)
    told: dict[str, Any] = msgspec.to_builtins(view)
    told["dropped"] = told.pop("drops")
    told |= {"live": source.live, "url": source.url, "credit": source.credit}
    return {**told, **msgspec.to_builtins(beside)}


def make_app(
    line: ControlLine, spec: WebSpec, leaving: asyncio.Event, limits: WebLimits
) -> Starlette:
    """All routes. Without the class for pictures there are none of them; that is logged."""
    frames = FrameViews(line)
    run = RunReader(line, spec.store, frames, Path(spec.folder))
    streams = AtOnce(limits.streams, "streams")
    all_routes = routes(run) + api_routes(spec.store, run.names, leaving, streams)
    all_routes += episode_routes(Path(spec.folder), spec.store)
    all_routes += rule_routes(spec.store, run.names, limits)
    recorded = None
    try:
        kind: Callable[..., Any] = load(spec.pictures)
        pictures = kind(frames.frame_store, spec.store, run.missing_pictures, spec.blur_faces)
        all_routes += pictures.routes(streams)
        recorded = pictures.recorded
    except Exception:
        log.exception("no pictures are served: %s cannot be loaded", spec.pictures)
    all_routes += recording_routes(
        Path(spec.folder), _write_clip, recorded, limits, spec.free_bytes
    )
    return Starlette(routes=all_routes, exception_handlers={FramegateError: _unavailable})


def _write_clip(*words: Any) -> None:
    load_builtin("write_clip")(*words)  # what it needs is loaded when somebody wants a clip


def _unavailable(request: Request, error: Exception) -> Response:  # noqa: ARG001
    level = logging.WARNING if isinstance(error, NoReply) else logging.DEBUG
    log.log(level, "%s", error)
    return PlainTextResponse(f"{redacted(str(error))}\n", 503, _NO_STORE)


def main() -> int:
    """Control socket, parent and listening socket as arguments; the spec on standard input."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent_of(int(sys.argv[2]))
    listening = socket.socket(fileno=int(sys.argv[3]))
    line = ControlLine(socket.socket(fileno=int(sys.argv[1])))
    spec = msgspec.json.decode(sys.stdin.buffer.read(), type=WebSpec)
    set_up_logging(spec.log_level, "http", spec.log_format)
    leaving = asyncio.Event()
    limits = WebLimits.within(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    limited = RequestLimit(make_app(line, spec, leaving, limits), limits.requests)
    app = guarded(limited, listening, spec.token_sha256, spec.origins)
    asyncio.run(QuietServer(app, spec.idle_s, leaving, limits).serve([listening]))
    return 0
