"""What the supervisor tells a worker: plain data, JSON on its standard input."""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

from framegate.pipeline.contracts import keys
from framegate.pipeline.contracts.records import FailReason, Position
from framegate.pipeline.contracts.source import Request

PaceName = Literal["realtime", "fast"]
LogFormat = Literal["text", "json"]

Polygon = tuple[tuple[float, float], ...]  # points (x, y), 0 to 1 of a picture's width and height

CAREFUL_FRAMES: Final = 64  # one record at a time for so many frames after a death


class StageSpec(msgspec.Struct, frozen=True):
    """One stage of the graph, with everything decided.

    input      stage whose stream it reads, None for decode
    main       on the way from decode to the published stream: one entry for every frame
    reliable   the decoder waits for it, and streams keep what it has not read
    files_only  of a file only: of a camera it may miss frames
    publishes  writes the published stream
    uses_models, followed  its class says so
    reads_side  its input is a side stage: an entry only for a frame of which that said something
    """

    name: str
    use: str
    input: str | None
    main: bool
    reliable: bool
    publishes: bool
    options: dict[str, Any] = {}
    uses_models: bool = False
    followed: bool = False
    reads_side: bool = False
    files_only: bool = False

    def misses(self, live: bool) -> bool:
        """Return whether it may miss frames of a source, a camera or a file."""
        return not self.reliable or (live and self.files_only)

    def out(self, source: str) -> str:
        """Return the name of the stream that it writes for a source."""
        return keys.results(source) if self.publishes else keys.out(source, self.name)


class RecordSpec(msgspec.Struct, frozen=True):
    """How recordings of a data folder are bounded.

    bytes        of all sources together
    days         for which they are kept; pinned_days: where an episode pins them
    free_bytes   that are left to others on the disk
    """

    bytes: int
    days: float
    pinned_days: float
    free_bytes: int


class SourceSpec(msgspec.Struct, frozen=True):
    """One source of the run.

    past    last epoch before this run: frames up to it are not waited for
    credit  frames between the decoder and the slowest reliable reader
    slots   frames that its frame store holds
    fault   why it is not to be opened any more
    retry_most_s  most seconds between two tries to connect
    ending  it is to be removed: decode no further, its last end follows
    generation  of this run's process: another one for each change of what is said here, and for
        a source of that name that went and came again
    record  its packets are recorded, within these limits; none: they are not
    masks   what of its pictures is blanked before anybody can read them
    """

    name: str
    request: Request
    past: int
    credit: int
    slots: int
    pace: str
    fault: str | None = None
    retry_most_s: float = 30.0
    ending: bool = False
    generation: int = 0
    record: RecordSpec | None = None
    masks: tuple[Polygon, ...] = ()

    @property
    def live(self) -> bool:
        """Return whether it is a camera: never waited for."""
        return self.request.live


class Suspect(msgspec.Struct, frozen=True):
    """A record that a stage is not to try again, and why."""

    source: str
    stage: str
    position: Position
    reason: FailReason


class WorkerSpec(msgspec.Struct, frozen=True):
    """One worker process: the stages it hosts, in order, for these sources.

    hosted   names of the stages it hosts, inputs before readers
    careful  sources to run one record at a time, saying which is in hand, up to a position
    asides   records to set aside
    models   that were chosen while the run went on, by source
    nice     how far the process steps back behind others, 0 to 19
    replicas on which tokens and epochs must be before they are used
    began_mono  monotonic seconds at which the run's process began that this worker belongs to
    """

    name: str
    run: str
    store: str
    folder: str
    results_keep: int
    stages: list[StageSpec]
    hosted: list[str]
    sources: list[SourceSpec]
    careful: dict[str, Position] = {}
    asides: list[Suspect] = []
    models: dict[str, str] = {}
    nice: int = 0
    replicas: int = 0
    began_mono: float = 0.0
    log_level: str = "INFO"
    log_format: LogFormat = "text"

    def stage(self, name: str) -> StageSpec:
        """Return the stage of that name."""
        return next(stage for stage in self.stages if stage.name == name)

    def readers(self, name: str, live: bool) -> tuple[str, ...]:
        """Return names of the reliable readers of a stage's stream, of a camera or a file."""
        return tuple(s.name for s in self.stages if s.input == name and not s.misses(live))

    def passed_on(self) -> tuple[str, ...]:
        """Return stages that only stages of this worker read, each frame of it."""
        read_by = {
            name: [reader for reader in self.stages if reader.input == name]
            for name in self.hosted
            if not self.stage(name).followed
        }
        return tuple(
            name
            for name, readers in read_by.items()
            if readers and all(r.main and r.name in self.hosted for r in readers)
        )

    def last_readers(self, live: bool) -> tuple[str, ...]:
        """Return reliable stages that no reliable stage reads: decode waits for the slowest."""
        reliable = [s for s in self.stages if not s.misses(live)]
        inputs = {s.input for s in reliable}
        return tuple(s.name for s in reliable if s.name not in inputs)
