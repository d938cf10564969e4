"""The HTTP process: metrics, health, and what the page needs to know.

/metrics      for Prometheus
/healthz      200 while the run lives
/readyz       200 when all workers serve and the store answers, else 503 and why, as JSON
/api/sources  each source as JSON
and the routes of the class that serves pictures.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from framegate.pipeline.engine.control import ControlLine
from framegate.pipeline.errors import FramegateError, StoreBusy, StoreLost, SupervisorSilent
from framegate.pipeline.loading import load
from framegate.pipeline.logs import set_up_logging
from framegate.pipeline.process import ProcessUse, die_with_parent_of, process_use
from framegate.pipeline.redaction import redacted
from framegate.pipeline.source import Request as SourceRequest
from framegate.pipeline.spec import SourceSpec
from framegate.pipeline.store.client import connect, store_errors
from framegate.pipeline.telemetry.counters import RunStatus, SourceStatus
from framegate.pipeline.telemetry.metrics import Scrape
from framegate.pipeline.telemetry.view import Sample, View, Viewer, view
from framegate.pipeline.web.frame_views import FrameViews
from framegate.pipeline.web.http_port import WebSpec
from framegate.pipeline.web.web_server import QuietServer, guarded

log = logging.getLogger(__name__)

ANSWER_S = 5.0
FRESH_S = 1.0
_NO_STORE = {"Cache-Control": "no-store"}


class RunReader:
    """What the store and the supervisor know. Any thread, one at a time."""

    def __init__(self, line: ControlLine, store: str, frames: FrameViews) -> None:
        self._line, self._url, self._frames = line, store, frames
        self._lock = threading.Lock()
        self._looking = threading.Lock()  # apart: a store that hangs must not hold up health
        self._viewer: Viewer | None = None
        self._status: RunStatus | None = None
        self._asked_mono = 0.0

    def status(self) -> RunStatus:
        """How the run is, at most a second ago. SupervisorSilent if nobody says."""
        with self._lock:
            now = time.monotonic()
            if self._status is None or now - self._asked_mono > FRESH_S:
                self._status = self._line.status(ANSWER_S)
                self._asked_mono = now
                self._frames.take_sources([_spec(source) for source in self._status.sources])
            return self._status

    def views(self) -> list[tuple[View, SourceStatus]]:
        """The run's sources, each with its rates of late. StoreLost, StoreBusy."""
        sources = self.status().sources
        with self._looking:
            views = self._there().look([source.name for source in sources])
        return list(zip(views, sources, strict=True))

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
        """All that is measured; without a store that answers, the rest. SupervisorSilent."""
        status = self.status()
        try:
            samples, info = self._read([source.name for source in status.sources])
        except (StoreLost, StoreBusy):
            return Scrape(status, {}, [], {}, _uses(status), _own_use(), None)
        return Scrape(
            status=status,
            counters={name: sample.counters for name, sample in samples.items()},
            views=[view(name, None, sample) for name, sample in samples.items()],
            models={n: s.results[0].models for n, s in samples.items() if s.results},
            uses=_uses(status),
            own=_own_use(),
            store=info,
        )

    def _read(self, names: list[str]) -> tuple[dict[str, Sample], dict[str, Any]]:
        viewer = Viewer(self._url)
        try:
            samples = {name: viewer.sample(name) for name in names}
        finally:
            viewer.close()
        with store_errors(self._url), connect(self._url) as client:
            return samples, client.info()

    def store_fault(self) -> str | None:
        """Why the store does not answer, None if it does."""
        try:
            with store_errors(self._url), connect(self._url) as client:
                client.ping()
        except FramegateError as error:
            return redacted(str(error))
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
        try:
            encode, kind = choose_encoder(request.headers.get("accept", ""))
        except (TypeError, ValueError):  # it asks for a version that is none
            encode, kind = choose_encoder("")
        return Response(encode(run.scrape()), headers={**_NO_STORE, "Content-Type": kind})

    def healthz(request: Request) -> Response:  # noqa: ARG001
        run.status()
        return PlainTextResponse("alive\n")

    def readyz(request: Request) -> Response:  # noqa: ARG001
        why = list(run.status().unready)
        if (fault := run.store_fault()) is not None:
            why.append(fault)
        return JSONResponse({"ready": not why, "why": why}, 503 if why else 200)

    def sources(request: Request) -> Response:  # noqa: ARG001
        listed = [as_json(view, source) for view, source in run.views()]
        return Response(msgspec.json.encode(listed), 200, _NO_STORE, "application/json")

    return [
        Route("/metrics", metrics),
        Route("/healthz", healthz),
        Route("/readyz", readyz),
        Route("/api/sources", sources),
    ]


def as_json(view: View, source: SourceStatus) -> dict[str, Any]:
    """One source as the page and programs get it."""
    told: dict[str, Any] = msgspec.to_builtins(view)
    told["dropped"] = told.pop("drops")
    return {**told, "live": source.live, "url": source.url, "credit": source.credit}


def make_app(line: ControlLine, spec: WebSpec) -> Starlette:
    """All routes. Without the class for pictures there are none of them; that is logged."""
    frames = FrameViews(line)
    run = RunReader(line, spec.store, frames)
    all_routes = routes(run)
    try:
        kind: Callable[..., Any] = load(spec.pictures)
        all_routes += kind(frames.frame_store, spec.store, run.missing_pictures).routes()
    except Exception:
        log.exception("no pictures are served: %s cannot be loaded", spec.pictures)
    return Starlette(routes=all_routes, exception_handlers={FramegateError: _unavailable})


def _unavailable(request: Request, error: Exception) -> Response:  # noqa: ARG001
    level = logging.WARNING if isinstance(error, SupervisorSilent) else logging.DEBUG
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
    app = guarded(make_app(line, spec), listening)
    asyncio.run(QuietServer(app, spec.idle_s).serve([listening]))
    return 0
