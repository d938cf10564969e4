"""The records that readers get about frames: results, outputs of a stage, sounds, the promise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, TypeVar

import msgspec

from framegate.pipeline.contracts import adapters
from framegate.pipeline.contracts.keys import LISTEN
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
from framegate.pipeline.contracts.source import Form

if TYPE_CHECKING:
    import pandas
    import supervision

# -- Sounds: what the stage `sound` writes.
#
# A window ends with a block of sound, which names it: `<epoch>-<block>`. It belongs to the frame
# with which the block ended, so that readers have one clock and one order for both. Each decoded
# block occurs once, in a window or among the lost ones.

SOUNDS_VERSION: Final = 1

SoundOutcome = Literal["heard", "unchanged", "quiet"]


class SoundLabel(msgspec.Struct, frozen=True):
    """What a window sounds like.

    label  of AudioSet, as "Smoke detector, smoke alarm"
    score  0..1, of its own: a bark is a dog is an animal
    """

    label: str
    score: float


class SoundWindow(msgspec.Struct, frozen=True, omit_defaults=True):
    """Of .975 s.

    block     number of the block with which it ends, from the beginning of the file or connection
    begins_s  seconds, of the clock of the frames' pts
    ends_s    the same
    outcome   heard: the network looked. unchanged: it sounded as when the network last looked, and
              its labels hold. quiet: nothing was louder than the stated level, and there are none
    level_db  of its loudest tenth of a second, decibels of full scale
    labels    that reach the least score and were asked for, the best first
    age_s     seconds since the network last looked
    """

    block: int
    begins_s: float
    ends_s: float
    outcome: SoundOutcome
    level_db: float
    labels: tuple[SoundLabel, ...] = ()
    age_s: float = 0.0


class Sounds(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the stage says of a frame with which blocks of sound ended.

    v        version of the record
    windows  in the order of their time; none where all was lost
    lost     blocks before these windows that were gone before they were listened to
    model    whose labels they are, as NAME-PRECISION@DIGEST
    """

    v: int
    windows: tuple[SoundWindow, ...]
    lost: int = 0
    model: str = ""

    def score_of(self, label: str) -> float:
        """Return the best score of a label in these windows; 0 where none of them has it."""
        return max(
            (one.score for w in self.windows for one in w.labels if one.label == label), default=0.0
        )


T = TypeVar("T")

Outcome = Literal["detected", "carried", "failed"]
Looked = Literal["whole", "part", "no"]
Escalation = Literal["none", "done", "degraded"]
Origin = Literal["detected", "carried", "moved", "escalated"]
LookReason = Literal["changed", "age", "doubted", "waiting", "unchanged"]
BeginReason = Literal["first", "reanchored", "swapped"]
WholeReason = Literal[BeginReason, "every_frame", "frame_age", "too_much"]
CameraReason = Literal["moving", "exposure"]
DegradedReason = Literal["late", "unanswered", "breaker_open", "over_budget", "pixels_lost"]
Reason = Literal[LookReason, WholeReason, CameraReason, FailReason]


Untracked = Literal["new", "heavy"]


class Object(msgspec.Struct, frozen=True, omit_defaults=True):
    """One object in one frame; no two of a frame overlap by more than an IoU of .6.

    track     its number through the frames, >= 1; null: none, and `untracked` says why
    label     its class, by name: what most of its track's sightings were, weighted by their scores
    class_id  its class, by number in the model
    score     0..1, how sure the model is
    box       x1, y1, x2, y2 in source pixels
    origin    detected: in this frame. carried: not looked at, and nothing changed there. moved:
              not looked at, and moved along with its track. escalated: by the heavy pass
    untracked  why it has no track. new: it was seen once; the next look gives it one, or it goes.
              heavy: only the heavy pass sees it, and tracks follow what the light one sees
    """

    track: int | None
    label: str
    class_id: int
    score: float
    box: tuple[float, float, float, float]
    origin: Origin
    untracked: Untracked | None = None


class Settled(msgspec.Struct, frozen=True):
    """A track that is counted now, once, by the label that it has.

    track  its number; the frame may not show it any more
    label  its class, by name
    """

    track: int
    label: str


class GateView(msgspec.Struct, frozen=True):
    """What the gate saw in a frame, for drawing; told only where somebody asked for it.

    columns      tiles across
    rows         tiles down
    tile         pixels of a tile's side
    hot          a bit a tile, row by row, highest first: whether its content changed
    looked       rectangles (x1, y1, x2, y2) in source pixels that the network was given
    sensitivity  a byte a tile, row by row: the change of a cell's mean, in tenths of a grey level,
                 that is looked at within two frames; 255 is 25.5 or more
    """

    columns: int
    rows: int
    tile: int
    hot: bytes
    looked: tuple[tuple[int, int, int, int], ...]
    sensitivity: bytes


class Result(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is published for one frame; `--json` prints exactly this.

    v          version of the record, 1
    source     name of the source
    epoch      grows whenever frames stop following each other: a run, a reconnect, another size
    seq        number of the decoded frame in its epoch, from 0
    pts        seconds from the container, null where that has none
    captured   UNIX seconds at which the frame was taken
    captured_from  what says so. rtcp: the camera's clock. arrival: when the frame came. file: the
               file's time stamps
    published  UNIX seconds at which the result was made
    width      pixels across, after rotation
    height     pixels down, after rotation
    outcome    detected: the network's answer for the pixels of this frame, also where it had the
               very same input before and that answer was kept (`[cache] exact`): both are the
               same bits, and which of them it was differs between two runs of a file. carried: the
               network was not asked, and what was known holds. failed: nothing could be said
    looked     how much of the frame the network was given
    escalation  none: the heavy model was not to be asked. done: it was. degraded: it was to be
               asked, and the light answer stands
    reason     why the frame was looked at, or not, or failed
    objects    what is in the frame
    models     those that made this result, as NAME-PRECISION@DIGEST
    age_s      seconds of media time: age of the oldest look that this result rests on
    scene      0 as yet; to grow at a cut of the picture
    gate       what the gate saw, with `[gate] view` or `--draw gate`
    degraded   why nobody answered, where `escalation` is degraded
    settled    tracks whose label this result settles: what `framegate_objects_total` counts
    sounds     what was heard in the windows that ended with it; null: none did, or no rule asks for
               sounds
    backdrop   now and then, where rules have areas or lines: 288 bytes (base64) by which it is told
               whether the camera was moved; empty: the picture is too plain; null: not told
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

    @property
    def position(self) -> Position:
        """Where this frame stands in its source."""
        return Position(self.epoch, self.seq)

    def to_supervision(self) -> supervision.Detections:
        """Return the objects as `supervision.Detections`, for its annotators, zones and metrics.

        `tracker_id` is -1 for an object without a track; `data["class_name"]` has the labels.
        PackageMissing if supervision is not installed.
        """
        return adapters.to_supervision(self)

    def to_coco(
        self, image_id: int | None = None, categories: Mapping[str, int] | None = None
    ) -> list[dict[str, Any]]:
        """Return the objects as entries of a COCO results file, ready for `json.dump`.

        `image_id` defaults to `seq`. `categories` are the category ids of your annotations by
        label; objects with other labels are left out. Without it, ids are the model's class ids.
        A `bbox` is x, y, width, height in source pixels.
        """
        return adapters.to_coco(self, image_id, categories)

    def to_pandas(self) -> pandas.DataFrame:
        """Return a data frame with a row for each object; `pandas.concat` joins several results.

        The columns are those of `framegate results --csv`. PackageMissing if pandas is not
        installed.
        """
        return adapters.to_pandas(self)


class Output(msgspec.Struct, Generic[T], frozen=True, kw_only=True):
    """What a stage gave for one frame, as `subscribe(..., stage=NAME)` gives it; or had left to say
    at the end of an epoch: then seq is the number of its frames, pts null, and captured and the
    size 0.

    source    name of the source
    stage     name of the stage
    epoch     grows whenever frames stop following each other
    seq       number of the decoded frame in its epoch, from 0
    pts       seconds from the container, null where that has none
    captured  UNIX seconds at which the frame was taken
    captured_from  what says so: rtcp, arrival or file
    width     pixels across, after rotation
    height    pixels down, after rotation
    output    what the stage gave: of the type that was asked for; else dicts, lists, texts, numbers
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
        """Where this frame stands in its source."""
        return Position(self.epoch, self.seq)


def read_output(
    source: str, stage: str, position: Position, data: bytes, kind: type[T]
) -> Output[T] | None:
    """Read a frame's entry in the stream of a stage, on the main path or beside it; None if the
    stage gave nothing. msgspec.ValidationError if its output is no `kind`; RecordTooNew.
    """
    record: Record | None
    try:
        side = decode_versioned(data, SideOutput)
    except msgspec.ValidationError:
        record = decode_record(data)
        said = record.said.get(stage)
    else:
        record, said = side.record, side.said
    if said is None:
        return None
    return _output(source, stage, position, record, said, kind)


def last_output(
    source: str, stage: str, position: Position, said: msgspec.Raw, kind: type[T]
) -> Output[T]:
    """Read what a stage had left to say at the end of an epoch: said, from End.said. It is about no
    frame, so time and size are None and 0. msgspec.ValidationError as `read_output`.
    """
    return _output(source, stage, position, None, said, kind)


def _output(
    source: str,
    stage: str,
    position: Position,
    record: Record | None,
    said: msgspec.Raw,
    kind: type[T],
) -> Output[T]:
    known = record or Record(VERSION, None, 0.0, 0.0, position.seq, Form(0, 0))
    return Output(
        source=source,
        stage=stage,
        epoch=position.epoch,
        seq=position.seq,
        pts=known.pts,
        captured=known.captured,
        captured_from=known.captured_from,
        width=known.form.width,
        height=known.form.height,
        output=decode(said, kind),
    )


Verdict = Literal["certified", "not_shown", "alarm", "unfinished", "coverage", "failed"]

DECLARED: Final = ".declared.json"  # ends the name of a declaration's file


class PromiseNews(msgspec.Struct, frozen=True, omit_defaults=True):
    """What became known of the promise with a frame.

    period, served, drawn, settled, caught  of the period that frames are served in
    alarmed   audits warned, and every frame is asked about
    doubt     0..1: how probable an error of the light path must be for it to be asked about
    verdict   of the last period that is over
    declared  periods that begin, each a certificate.Declaration
    closed    periods that are over, each a certificate.Certificate
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
    """For a column: the last verdict, and how the audits of this period stand."""
    now = "alarm" if news.alarmed else news.verdict or "none yet"
    return f"{now.replace('_', ' ')}, {news.caught}/{news.settled} wrong"


def failed_result(source: str, position: Position, record: Record, published: float) -> Result:
    """The result of a frame that a stage could not do; `record.failed` says why."""
    return Result(
        v=VERSION,
        source=source,
        epoch=position.epoch,
        seq=position.seq,
        pts=record.pts,
        captured=record.captured,
        captured_from=record.captured_from,
        published=published,
        width=record.form.width,
        height=record.form.height,
        outcome="failed",
        looked="no",
        escalation="none",
        reason=record.failed or "stage_error",
        objects=(),
        models=(),
        age_s=0.0,
        scene=0,
        sounds=sounds_with(record),
    )


def sounds_with(record: Record) -> Sounds | None:
    """What was heard on the main path up to a frame; None: nothing new, or nobody listens there."""
    said = record.said.get(LISTEN)
    return None if said is None else decode(said, Sounds)


def record_of_result(data: bytes, stage: str) -> Record:
    """A record that carries a published result, for stages that read the published stream."""
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
