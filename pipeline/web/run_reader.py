"""Read the state of a run for the routes: from its supervisor, its store and its fleet."""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from framegate.pipeline.contracts.drops import drops_of
from framegate.pipeline.contracts.errors import FramegateError, StoreBusy, StoreLost
from framegate.pipeline.contracts.live_config import ConfigRequest, EditableConfig
from framegate.pipeline.contracts.object_filters import FilterList, FilterRequest
from framegate.pipeline.contracts.redaction import redacted, shown
from framegate.pipeline.engine.control_line import ControlLine
from framegate.pipeline.engine.control_messages import GetStatus
from framegate.pipeline.fleet.served_by import ServedBy
from framegate.pipeline.store.redis_client import connect, store_errors
from framegate.pipeline.system.process import ProcessUse, process_use
from framegate.pipeline.telemetry.metrics import Scrape
from framegate.pipeline.telemetry.recording_sound_sinks import Beside, look_beside
from framegate.pipeline.telemetry.run_status import RunStatus, SourceStatus
from framegate.pipeline.telemetry.source_view import Sample, View, Viewer, view
from framegate.pipeline.web.fleet.fleet import Fleet
from framegate.pipeline.web.pictures.frames import FrameViews

ANSWER_S = 5.0
FRESH_S = 1.0


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
        last call; for a slot, those of the whole fleet. NoReply, StoreLost, StoreBusy.
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
        """Return the dropped frames of each camera of the run, or of those of its whole fleet, by
        reason. NoReply, StoreLost, StoreBusy.
        """
        cameras = [source.name for source in self.status().sources if source.live]
        others = self._others()
        with self._looking, store_errors(self._url):
            samples = {name: self._connected().sample(name) for name in [*cameras, *others]}
        for name in others:
            if samples[name].connection is None:  # a file, or a camera that no slot has served
                del samples[name]
        return {name: drops_of(sample.counters) for name, sample in samples.items()}

    def scrape(self) -> Scrape:
        """Return all measurements, or those of the supervisor if the store fails. NoReply."""
        status = self.status()
        try:
            samples, info, beside = self._read(status)
        except (StoreLost, StoreBusy):
            without = Scrape(status, {}, [], {}, {}, _uses(status), _own_use(), None)
            return replace(without, folder=str(self._data or ""))
        # Only a store that answers is asked whether it takes writes: two time-outs are too long.
        status = msgspec.structs.replace(status, unready=self.unready())
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


def as_json(view: View, source: SourceStatus, beside: Beside, served: ServedBy) -> dict[str, Any]:
    """Return a source as the live page and the API give it."""
    if view.promise is not None:  # msgspec.Raw has no builtin form
        promise = msgspec.structs.replace(view.promise, declared=(), closed=())
        view = replace(view, promise=promise)
    fields: dict[str, Any] = msgspec.to_builtins(view)
    fields["dropped"] = fields.pop("drops")
    fields |= {"live": source.live, "url": source.url, "credit": source.credit}
    return {**fields, **msgspec.to_builtins(beside), **msgspec.to_builtins(served)}


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
