"""The work that the supervisor gives a worker: plain data, sent as JSON on standard input."""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

from framegate.pipeline.contracts import keys
from framegate.pipeline.contracts.object_filters import ObjectFilter
from framegate.pipeline.contracts.records import FailReason, Position
from framegate.pipeline.contracts.source import Request

PaceName = Literal["realtime", "fast"]
LogFormat = Literal["text", "json"]

Polygon = tuple[tuple[float, float], ...]  # points (x, y), 0 to 1 of a picture's width and height

CAREFUL_FRAMES: Final = 64  # frames after a worker's death that run one record at a time
TRAIL_FRAMES: Final = 1024


class StageSpec(msgspec.Struct, frozen=True):
    """A stage of the graph, with all decisions made.

    input      stage whose stream it reads; None for decode
    main       whether it is between decode and the published stream: one entry for every frame
    reliable   whether the decoder waits for it, and streams keep the frames that it has not read
    files_only  whether it is reliable for files only, and may miss frames of a camera
    trails     whether the decoder may be TRAIL_FRAMES ahead of it, not only the source's credit. It
               must read published results, and no pixels
    publishes  whether it writes the published stream
    uses_models, followed  see `contracts.stage.Stage`
    reads_side  whether its input is a side stage, which writes entries only for some frames
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
    trails: bool = False

    def misses(self, live: bool) -> bool:
        """Return whether it may miss frames of a camera (`live`) or of a file."""
        return not self.reliable or (live and self.files_only)

    def out(self, source: str) -> str:
        """Return the name of the stream that it writes for a source."""
        if self.publishes:
            return keys.results(source)
        return keys.out(source, self.name)


class RecordSpec(msgspec.Struct, frozen=True):
    """The limits of the recordings of a data folder.

    bytes        largest size, all sources together
    days         age at which recordings are removed
    pinned_days  the same for those that an episode pins
    free_bytes   disk space that is left free for others
    """

    bytes: int
    days: float
    pinned_days: float
    free_bytes: int


class SourceSpec(Request, frozen=True, kw_only=True):
    """A source of the run, as its workers get it: a Request, and the decisions of the run.

    It has the secret of the URL, so it is never stored.

    past    last epoch before this run; no stage waits for frames up to it
    credit  frames by which the decoder may be ahead of the slowest reliable reader
    slots   frames that its frame store has room for
    fault   why the decoder must not open it again; None: it may
    retry_most_s  longest time between two attempts to connect, in seconds
    ending  whether it is being removed: decode stops and writes its last end
    generation  grows in this run's process with each change of the source, and when a source of
        that name is removed and added again
    record  limits of its recording; None: its packets are not recorded
    masks   areas of its pictures that are blanked before any process can read them
    continues  whether it is a file that continues where another run stopped
    hands_over  whether `ending` is for another slot of a fleet: decode then writes no end
    """

    name: str
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
    continues: bool = False
    hands_over: bool = False

    def decoded(self) -> SourceSpec:
        """Return the spec of the stream that is decoded: that of `look_at`, if there is one.

        `unwatched` is in pixels of the large picture, whose size is known only while both streams
        are open. So for a small stream every change counts, which keeps it awake at worst.
        """
        if not self.look_at:
            return self
        return msgspec.structs.replace(self, url=self.look_at, look_at="", unwatched=())


class Suspect(msgspec.Struct, frozen=True):
    """A record that a stage must not try again, and the reason."""

    source: str
    stage: str
    position: Position
    reason: FailReason


class WorkerSpec(msgspec.Struct, frozen=True):
    """A worker process, and the stages that it runs for these sources.

    hosted   names of its stages, inputs before readers
    careful  by source, the position up to which records run one at a time, each announced before
    asides   records to set aside
    models   models that were chosen during the run, by source
    filters  object filters, by name
    nice     niceness of the process, 0 to 19
    replicas number of replicas that must confirm tokens and epochs before they are used
    began_mono  monotonic seconds at which the run's process began
    trace_ratio  share of the frames whose way is sent as spans, 0 to 1
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
    filters: dict[str, ObjectFilter] = {}
    nice: int = 0
    replicas: int = 0
    began_mono: float = 0.0
    trace_ratio: float = 0.0
    log_level: str = "INFO"
    log_format: LogFormat = "text"

    def stage(self, name: str) -> StageSpec:
        """Return the stage of that name."""
        return next(stage for stage in self.stages if stage.name == name)

    def readers(self, name: str, live: bool) -> tuple[str, ...]:
        """Return names of the reliable readers of a stage's stream, for a camera or a file."""
        return tuple(s.name for s in self.stages if s.input == name and not s.misses(live))

    def main_reader(self, name: str) -> str | None:
        """Return the stage of the main path that reads a stage; None if there is none."""
        readers = [stage.name for stage in self.stages if stage.main and stage.input == name]
        return next(iter(readers), None)

    def main_path_after(self, name: str) -> tuple[str, ...]:
        """Return the stages of the main path after a stage, in order; none after a side stage."""
        after: list[str] = []
        reader = self.main_reader(name)
        while reader is not None:
            after.append(reader)
            reader = self.main_reader(reader)
        return tuple(after)

    def passed_on(self) -> tuple[str, ...]:
        """Return the stages whose outputs only main stages of this worker read.

        Their outputs stay in the worker's memory.
        """
        passed = []
        for name in self.hosted:
            readers = [reader for reader in self.stages if reader.input == name]
            stay_here = all(reader.main and reader.name in self.hosted for reader in readers)
            if readers and stay_here and not self.stage(name).followed:
                passed.append(name)
        return tuple(passed)

    def last_readers(self, live: bool) -> tuple[str, ...]:
        """Return the reliable stages that no reliable stage reads; decode waits for the slowest.

        Those that trail are left out; see `trailing`.
        """
        reliable = [s for s in self.stages if not (s.misses(live) or s.trails)]
        inputs = {s.input for s in reliable}
        return tuple(s.name for s in reliable if s.name not in inputs)

    def trailing(self) -> tuple[str, ...]:
        """Return the stages that may be TRAIL_FRAMES behind the decoder."""
        return tuple(stage.name for stage in self.stages if stage.trails)
