"""The status of a run, as its supervisor knows it; the HTTP process asks for it."""

from __future__ import annotations

import msgspec

from framegate.pipeline.telemetry.counters import StageTimes


class WorkerStatus(msgspec.Struct, frozen=True):
    """One worker. pid: None while there is none; restarts: how often another took its place."""

    name: str
    pid: int | None
    ready: bool
    restarts: int


class SourceStatus(msgspec.Struct, frozen=True):
    """What was decided of one source. url: without user and password; hears: it is listened to."""

    name: str
    url: str
    live: bool
    past: int
    credit: int
    slots: int
    shared_bytes: int
    hears: bool = False


class RunStatus(msgspec.Struct, frozen=True):
    """unready: why the run is not ready, nothing if it is. times: by stage, over all lives. sinks:
    their names.
    """

    run: str
    draining: bool
    unready: list[str]
    workers: list[WorkerStatus]
    sources: list[SourceStatus]
    times: dict[str, StageTimes]
    sinks: tuple[str, ...] = ()
