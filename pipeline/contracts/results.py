"""The records that readers get about frames: results, outputs of stages, sounds and the promise."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, TypeVar

import msgspec

from framegate.pipeline.contracts import result_exports
from framegate.pipeline.contracts.keys import LISTEN, WINDOWS
from framegate.pipeline.contracts.records import (
    VERSION,
    CapturedFrom,
    FailReason,
    Position,
    Record,
    SideOutput,
    decode,
    decode_record,
    decode_versioned,
)
from framegate.pipeline.contracts.source import CameraEvent, Form
from framegate.pipeline.contracts.visits import Visit, visits_with

if TYPE_CHECKING:
    import pandas
    import supervision

# -- Sounds: the outputs of the stage `sound`.
#
# A window ends with a block of sound, which names it: `<epoch>-<block>`. It belongs to the frame
# with which the block ended, so that readers have one clock and one order for both. Each decoded
# block occurs once, in a window or among the lost ones.

SOUNDS_VERSION: Final = 1

SoundOutcome = Literal["heard", "unchanged", "quiet"]


class SoundLabel(msgspec.Struct, frozen=True):
    """A sound that a window contains.

    label  a label of AudioSet, such as "Smoke detector, smoke alarm"
    score  0 to 1, for this label alone: a bark is also a dog and an animal
    """

    label: str
    score: float


class SoundWindow(msgspec.Struct, frozen=True, omit_defaults=True):
    """A window of 0.975 s of sound.

    block     number of the block with which the window ends, from the start of the file or
              connection
    begins_s  start in seconds, on the clock of the frames' pts
    ends_s    end in seconds, on the same clock
    outcome   heard: the network ran. unchanged: the sound is as when the network last ran, and its
              labels are still used. quiet: nothing was louder than the configured level
    level_db  level of the loudest tenth of a second, in decibels of full scale
    labels    requested labels above the threshold, the highest score first
    age_s     seconds since the network last ran
    """

    block: int
    begins_s: float
    ends_s: float
    outcome: SoundOutcome
    level_db: float
    labels: tuple[SoundLabel, ...] = ()
    age_s: float = 0.0


class Sounds(msgspec.Struct, frozen=True, omit_defaults=True):
    """The output of the stage `sound` for a frame with which blocks of sound ended.

    v        version of the record
    windows  windows in order of time; empty if all blocks were lost
    lost     blocks before these windows that were lost before they were processed
    model    the model of the labels, as NAME-PRECISION@DIGEST
    """

    v: int
    windows: tuple[SoundWindow, ...]
    lost: int = 0
    model: str = ""


T = TypeVar("T")

Outcome = Literal["detected", "carried", "failed"]
Looked = Literal["whole", "part", "no"]
Escalation = Literal["none", "done", "degraded"]
Origin = Literal["detected", "carried", "moved", "escalated"]
LookReason = Literal["changed", "age", "doubted", "waiting", "unchanged", "undecoded"]
BeginReason = Literal["first", "reanchored", "swapped"]
WholeReason = Literal[BeginReason, "every_frame", "frame_age", "too_much"]
CameraReason = Literal["moving", "exposure"]
DegradedReason = Literal["late", "unanswered", "breaker_open", "over_budget", "pixels_lost"]
Reason = Literal[LookReason, WholeReason, CameraReason, FailReason]


Untracked = Literal["new", "heavy"]


class Object(msgspec.Struct, frozen=True, omit_defaults=True):
    """One object in one frame. Two objects of a frame overlap by at most 0.6 IoU.

    track     number of the object through the frames, >= 1; null: no track, see `untracked`
    label     name of its class: the class of most sightings of its track, weighted by their scores
    class_id  number of its class in the model
    score     0 to 1, confidence of the model
    box       x1, y1, x2, y2 in source pixels
    origin    detected: found in this frame. carried: not looked at, and nothing changed there.
              moved: not looked at, and moved along its track. escalated: found by the heavy model
    untracked  reason for the missing track. new: seen once; the next look gives it a track or
              removes it. heavy: only the heavy model sees it, and tracks follow the light one; the
              next look or change at its place removes it
    """

    track: int | None
    label: str
    class_id: int
    score: float
    box: tuple[float, float, float, float]
    origin: Origin
    untracked: Untracked | None = None


class Settled(msgspec.Struct, frozen=True):
    """A track that is counted now, once, by its final label.

    track  number of the track; the frame may not show it any more
    label  name of its class
    """

    track: int
    label: str


class GateView(msgspec.Struct, frozen=True):
    """The state of the gate in a frame, for drawing; only present on request.

    columns      tiles across
    rows         tiles down
    tile         side of a tile in pixels
    hot          one bit per tile, row by row, highest first: whether its content changed
    looked       rectangles (x1, y1, x2, y2) in source pixels that the network got
    sensitivity  one byte per tile, row by row: the change of the mean of a cell that is looked at
                 within two frames, in tenths of a grey level; 255 is 25.5 or more
    """

    columns: int
    rows: int
    tile: int
    hot: bytes
    looked: tuple[tuple[int, int, int, int], ...]
    sensitivity: bytes


class Result(msgspec.Struct, frozen=True, omit_defaults=True):
    """The published result for one frame; `--json` prints exactly this.

    v          version of the record, 1
    source     name of the source
    epoch      grows at each break of the source's frames: a run, a reconnect, another picture size
    seq        number of the decoded frame in its epoch, from 0
    pts        time of the frame in its file or stream, in seconds; null if it has none
    captured   UNIX seconds at which the frame was taken
    captured_from  origin of `captured`. rtcp: the camera's clock. arrival: the frame's arrival,
               also of a video file. file: a source of your own stated the time
    published  UNIX seconds at which the result was made
    width      pixels across, after rotation
    height     pixels down, after rotation; of a source with `look_at`, the size of the stream of
               `url`
    outcome    detected: the network's answer for the pixels of this frame, computed now or from the
               exact cache (`[cache] exact`), which has the same bits. carried: the network did not
               run, and the known objects are still valid. failed: there is no result
    looked     how much of the frame the network got
    escalation  none: the heavy model was not needed. done: it answered. degraded: it was needed
               and did not answer, so this is the light answer
    reason     why the frame was looked at, was not looked at, or failed
    objects    the objects in the frame
    models     models that made this result, as NAME-PRECISION@DIGEST
    age_s      age of the oldest evidence in this result: seconds of media time since the network
               saw it
    scene      always 0; reserved for cuts of the picture
    gate       state of the gate, with `[gate] view` or `--draw gate`
    degraded   why there was no answer, if `escalation` is degraded
    settled    tracks whose label is final from now on: `framegate_objects_total` counts these
    sounds     sounds of the windows that ended with this frame; null: none ended, or no rule needs
               sounds
    backdrop   structure of the picture, by which Framegate detects that the camera was moved: 288
               bytes (base64) every 128 frames, if rules have areas or lines. Empty: the picture is
               too plain. null: not in this frame
    filters    names of the object filters that apply from this frame on; null: they are those of
               the frame before
    visits     tracks that have ended
    looked_at  width and height of the picture of the smaller stream that the network looks at, in
               whose pixels `gate` is; null: the source has one stream
    camera_events  kinds of the events that the camera itself reported since the frame before, and
               of those that last: motion, person, vehicle, animal, line (crossed), area (entered),
               tamper, other. Empty: it reported none. null: unknown, as it was not asked
               (`events` of the source) or did not answer
    """

    v: int
    source: str
    epoch: int
    seq: int
    pts: float | None
    captured: float
    captured_from: CapturedFrom
    published: float
    width: int
    height: int
    outcome: Outcome
    looked: Looked
    escalation: Escalation
    reason: Reason
    objects: tuple[Object, ...]
    models: tuple[str, ...]
    age_s: float
    scene: int
    gate: GateView | None = None
    degraded: DegradedReason | None = None
    settled: tuple[Settled, ...] = ()
    sounds: Sounds | None = None
    backdrop: bytes | None = None
    filters: tuple[str, ...] | None = None
    visits: tuple[Visit, ...] = ()
    looked_at: tuple[int, int] | None = None
    camera_events: tuple[CameraEvent, ...] | None = None

    @property
    def position(self) -> Position:
        """Return the frame's position in its source."""
        return Position(self.epoch, self.seq)

    @property
    def look_size(self) -> tuple[int, int]:
        """Return the width and height of the picture that the network looks at."""
        return self.looked_at or (self.width, self.height)

    def to_supervision(self) -> supervision.Detections:
        """Return the objects as `supervision.Detections`, for its annotators, zones and metrics.

        `tracker_id` is -1 for an object without a track; `data["class_name"]` has the labels.
        PackageMissing if supervision is not installed.
        """
        return result_exports.to_supervision(self)

    def to_coco(
        self, image_id: int | None = None, categories: Mapping[str, int] | None = None
    ) -> list[dict[str, Any]]:
        """Return the objects as entries of a COCO results file, ready for `json.dump`.

        `image_id` defaults to `seq`. `categories` are the category ids of your annotations by
        label; objects with other labels are left out. Without it, ids are the model's class ids.
        A `bbox` is x, y, width, height in source pixels.
        """
        return result_exports.to_coco(self, image_id, categories)

    def to_pandas(self) -> pandas.DataFrame:
        """Return a data frame with a row for each object; `pandas.concat` joins several results.

        The columns are those of `framegate results --csv`. PackageMissing if pandas is not
        installed.
        """
        return result_exports.to_pandas(self)


class Output(msgspec.Struct, Generic[T], frozen=True, kw_only=True):
    """The output of a stage for one frame, as `subscribe(..., stage=NAME)` yields it.

    An output at the end of an epoch belongs to no frame: its seq is the number of frames, pts is
    null, and captured and the size are 0.

    source    name of the source
    stage     name of the stage
    epoch     grows at each break of the source's frames
    seq       number of the decoded frame in its epoch, from 0
    pts       time of the frame in its file or stream, in seconds; null if it has none
    captured  UNIX seconds at which the frame was taken
    captured_from  origin of `captured`: rtcp, arrival or file
    width     pixels across, after rotation
    height    pixels down, after rotation
    output    the output as the requested type, or as dicts, lists, texts and numbers
    """

    source: str
    stage: str
    epoch: int
    seq: int
    pts: float | None
    captured: float
    captured_from: CapturedFrom
    width: int
    height: int
    output: T

    @property
    def position(self) -> Position:
        """Return the frame's position in its source."""
        return Position(self.epoch, self.seq)


def read_output(
    source: str, stage: str, position: Position, data: bytes, kind: type[T]
) -> Output[T] | None:
    """Read a frame's entry in the stream of a main or side stage; None if it has no output.

    msgspec.ValidationError if the output is no `kind`; RecordTooNew.
    """
    output: msgspec.Raw | None
    try:
        side = decode_versioned(data, SideOutput)
    except msgspec.ValidationError:  # the stage is on the main path
        record = decode_record(data)
        output = record.said.get(stage)
    else:
        record = side.record
        output = side.said
    if output is None:
        return None
    return _output(source, stage, position, record, output, kind)


def last_output(
    source: str, stage: str, position: Position, said: msgspec.Raw, kind: type[T]
) -> Output[T]:
    """Read the last output of a stage in an epoch; `said` is its value in `End.said`.

    It belongs to no frame: its pts is None, its times and sizes are 0. msgspec.ValidationError as
    `read_output`.
    """
    record = Record(VERSION, None, 0.0, 0.0, position.seq, Form(0, 0))
    return _output(source, stage, position, record, said, kind)


def _output(
    source: str,
    stage: str,
    position: Position,
    record: Record,
    output: msgspec.Raw,
    kind: type[T],
) -> Output[T]:
    return Output(
        source=source,
        stage=stage,
        epoch=position.epoch,
        seq=position.seq,
        pts=record.pts,
        captured=record.captured,
        captured_from=record.captured_from,
        width=record.form.width,
        height=record.form.height,
        output=decode(output, kind),
    )


Verdict = Literal["certified", "not_shown", "alarm", "unfinished", "coverage", "failed"]

DECLARED: Final = ".declared.json"  # ends the name of a declaration's file


class PromiseNews(msgspec.Struct, frozen=True, omit_defaults=True):
    """The state of the promise after a frame.

    period    the current period
    served    frames served in it
    drawn     frames drawn for an audit in it
    settled   audits with an answer in it
    caught    audits that found an error in it
    alarmed   whether audits raised an alarm, so that every frame is sent to the heavy model
    doubt     0 to 1, probability of an error above which a frame is sent to the heavy model
    verdict   verdict on the last period that ended
    declared  periods that begin, each a certificate.Declaration
    closed    periods that ended, each a certificate.Certificate
    """

    period: int
    served: int
    drawn: int
    settled: int
    caught: int
    alarmed: bool
    doubt: float
    verdict: Verdict | None = None
    declared: tuple[msgspec.Raw, ...] = ()
    closed: tuple[msgspec.Raw, ...] = ()


def in_short(news: PromiseNews) -> str:
    """Return the last verdict and the audits of this period, short enough for a column."""
    verdict = news.verdict or "none yet"
    if news.alarmed:
        verdict = "alarm"
    return f"{verdict.replace('_', ' ')}, {news.caught}/{news.settled} wrong"


def looked_at(record: Record) -> tuple[int, int] | None:
    """Return `Result.looked_at` of a frame."""
    if record.shown is None:
        return None
    return record.form.width, record.form.height


def failed_result(source: str, position: Position, record: Record, published: float) -> Result:
    """Return the result of a frame on which a stage failed; `record.failed` is the reason.

    It has the visits that the stage windows ended with this frame: that stage does not repeat them.
    """
    width, height = record.result_size
    return Result(
        v=VERSION,
        source=source,
        epoch=position.epoch,
        seq=position.seq,
        pts=record.pts,
        captured=record.captured,
        captured_from=record.captured_from,
        published=published,
        width=width,
        height=height,
        outcome="failed",
        looked="no",
        escalation="none",
        reason=record.failed or "stage_error",
        objects=(),
        models=(),
        age_s=0.0,
        scene=0,
        sounds=sounds_with(record),
        visits=visits_with(record, WINDOWS),
        looked_at=looked_at(record),
        camera_events=record.camera_events,
    )


def check_results(outputs: Iterable[Any]) -> None:
    """Raise TypeError if a stage that publishes returned anything but a Result for a frame."""
    for output in outputs:
        if not isinstance(output, Result):
            raise TypeError(
                f"it publishes results (publishes = True), and returned {output!r:.80}: it must "
                "return a Result for each frame; a stage beside the main path leaves publishes out"
            )


def sounds_with(record: Record) -> Sounds | None:
    """Return the sounds that ended with a frame; None if none did, or no main stage listens."""
    output = record.said.get(LISTEN)
    if output is None:
        return None
    return decode(output, Sounds)


def record_of_result(data: bytes, stage: str) -> Record:
    """Return a record with a published result, for stages that read the published stream."""
    result = decode_versioned(data, Result)
    return Record(
        v=VERSION,
        pts=result.pts,
        captured=result.captured,
        captured_from=result.captured_from,
        arrived=0.0,
        number=result.seq,
        form=Form(result.width, result.height),
        said={stage: msgspec.Raw(data)},
    )
