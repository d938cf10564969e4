"""The status of a run, which the supervisor sends to the HTTP process."""

from __future__ import annotations

import msgspec

from framegate.pipeline.telemetry.counters import StageTimes


class WorkerStatus(msgspec.Struct, frozen=True):
    """A worker. pid: None while no process runs; restarts: number of times it was restarted."""

    name: str
    pid: int | None
    ready: bool
    restarts: int


class SourceStatus(msgspec.Struct, frozen=True):
    """The settings of a source. url: without user and password; hears: its sound is used."""

    name: str
    url: str
    live: bool
    past: int
    credit: int
    slots: int
    shared_bytes: int
    hears: bool = False


class RunStatus(msgspec.Struct, frozen=True):
    """The status of a run.

    unready  reasons why the run is not ready; empty if it is ready
    times    times of each stage, including killed workers
    sinks    names of the sinks
    """

    run: str
    draining: bool
    unready: list[str]
    workers: list[WorkerStatus]
    sources: list[SourceStatus]
    times: dict[str, StageTimes]
    sinks: tuple[str, ...] = ()
