"""The data that stages exchange: positions, records, ends of epochs, and their msgpack encoding."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple, TypeVar

import msgspec

from framegate.pipeline.contracts.errors import RecordTooNew
from framegate.pipeline.contracts.source import CameraEvent, Form

VERSION = 1

T = TypeVar("T")

FailReason = Literal["stage_error", "worker_died", "frame_lost"]
CapturedFrom = Literal["rtcp", "arrival", "file"]


class Position(NamedTuple):
    """The position of a frame in its source; the id of its entry in every stream.

    epoch  >= 1, grows at each break of continuity; 0 means "before the first frame"
    seq    >= 0, counts the decoded frames of the epoch
    """

    epoch: int
    seq: int

    def __str__(self) -> str:
        return f"{self.epoch}-{self.seq}"

    @property
    def following(self) -> Position:
        """Return the next position of the epoch, the only one that can follow without a gap."""
        return Position(self.epoch, self.seq + 1)

    @classmethod
    def parse(cls, text: bytes | str) -> Position:
        """Read `<epoch>-<seq>`; ValueError on anything else."""
        if isinstance(text, bytes):
            text = text.decode()
        epoch, seq = text.split("-")
        return cls(int(epoch), int(seq))


START = Position(0, 0)


_SHORT = {
    "captured": "c",
    "arrived": "a",
    "number": "n",
    "form": "f",
    "taken_us": "u",
    "key_frame": "k",
    "sound": "b",
    "shown": "w",
    "undecoded": "e",
    "camera_events": "o",
}


class Record(msgspec.Struct, frozen=True, omit_defaults=True, rename=_SHORT):
    """One frame on the main path. The stream's name is its source, the entry's id its position.

    Its keys are short because every hop writes it.

    v         version of the record, 1
    pts       seconds from the container; null if it has none
    captured  UNIX seconds at which the frame was taken
    captured_from  origin of `captured`: rtcp, arrival or file
    arrived   seconds of this host's monotonic clock
    number    number of the decoded frame over all epochs; its pixels are in slot `number` modulo
              slots
    form      size and colours of the pixels, after rotation
    shown     width and height of the recorded picture, in whose pixels results are, if the pixels
              are those of a smaller stream; null: results are in the pixels of `form`
    dropped   dropped frames right before this one, whose seqs are missing
    said      outputs of the stages so far, by name of the stage, msgpack
    failed    why a stage failed; null for a good frame
    taken_us  microseconds from arrival to the end of the last stage with an output
    key_frame  whether it was encoded without other frames, so that compression looks like a change
    sound     blocks of sound that ended with the frame: number of the first, from the start of the
              file or connection, and how many
    undecoded  it was not decoded, because its source is calm: it has no pixels, and the number of
              the next decoded frame
    camera_events  kinds of the events that the camera itself reported; null: unknown
    """

    v: int
    pts: float | None
    captured: float
    arrived: float
    number: int
    form: Form
    captured_from: CapturedFrom = "arrival"
    dropped: int = 0
    said: dict[str, msgspec.Raw] = {}
    failed: FailReason | None = None
    taken_us: int = 0
    key_frame: bool = False
    sound: tuple[int, int] | None = None
    shown: tuple[int, int] | None = None
    undecoded: bool = False
    camera_events: tuple[CameraEvent, ...] | None = None

    @property
    def result_size(self) -> tuple[int, int]:
        """Return the width and height of the picture in whose pixels results are."""
        return self.shown or (self.form.width, self.form.height)


def with_said(record: Record, stage: str, output: bytes, ended: float) -> Record:
    """Return the record with the output of `stage` (msgpack), which was ready at `ended`."""
    return Record(  # without `replace`, which takes longer: this runs at every hop
        record.v,
        record.pts,
        record.captured,
        record.arrived,
        record.number,
        record.form,
        record.captured_from,
        record.dropped,
        {**record.said, stage: msgspec.Raw(output)},
        record.failed,
        int((ended - record.arrived) * 1e6),
        record.key_frame,
        record.sound,
        record.shown,
        record.undecoded,
        record.camera_events,
    )


def with_failure(record: Record, reason: FailReason) -> Record:
    """Return the record of a frame on which a stage failed."""
    return msgspec.structs.replace(record, failed=reason)


class End(msgspec.Struct, frozen=True, omit_defaults=True):
    """The end of an epoch: the source ended, or its frames broke off. It is not a frame.

    Its id in the stream is the one after the last frame.


    v        version of the record
    frames   frames decoded in this epoch. Of an end that is repeated (`away_s`) after a worker
             restarted, the number may be too high
    last     true if the source ends with this epoch
    counts   counters of the decoder, such as damaged packets
    fault    why the source ended, or why the camera is away now: reason and text; null if the
             source is complete
    said     last outputs of stages, by name of the stage, msgpack
    dropped  dropped frames after the last published one of the epoch; `frames` includes them
    epoch    the epoch that ends, for a stage; in the store, the id of the entry contains it
    away_s   in a repeated end while the camera is away: monotonic seconds since its last frame, or
             since the worker began if that was later
    since    in such an end of a camera that never connected: UNIX seconds since it is missing
    """

    v: int
    frames: int
    last: bool
    counts: dict[str, int] = {}
    fault: str | None = None
    said: dict[str, msgspec.Raw] = {}
    dropped: int = 0
    epoch: int = 0
    away_s: float = 0.0
    since: float = 0.0


ConnectionState = Literal["connecting", "connected", "lost"]


class Connection(msgspec.Struct, frozen=True, omit_defaults=True):
    """The state of a live source's connection: field `c` of the hash `at:decode`.

    state  connecting: not connected since this run began. lost: it was connected before. In both
           states the worker tries again for ever
    since  UNIX seconds at which the state began
    fault  why there is no connection; None while connected or before the first attempt failed
    url_fault  why the recorded stream of a source with `look_at` is away; None: it is connected, or
           the source has one stream
    clock_off_s  seconds by which the camera's clock is ahead of this host's (negative: behind) if
           it is off by more than a day; 0: its clock is used, or it has none
    """

    v: int
    state: ConnectionState
    since: float
    fault: str | None = None
    clock_off_s: float = 0.0
    url_fault: str | None = None


def side_output(record: Record, before: Position, said: msgspec.Raw) -> SideOutput:
    """Return the output (msgpack) of a side stage as its stream contains it."""
    return SideOutput(
        VERSION, str(before), said, msgspec.structs.replace(record, said={}, dropped=0)
    )


def record_of_side_output(output: SideOutput, stage: str, position: Position) -> Record:
    """Return a record with the output of a side stage for the frame at `position`, for its readers.

    `dropped` counts the frames right before it without an output, so that a reader that has read
    the entry before sees no gap.
    """
    before = Position.parse(output.before)
    expected_seq = 0
    if before.epoch == position.epoch:
        expected_seq = before.seq + 1
    dropped = position.seq - expected_seq
    return msgspec.structs.replace(output.record, said={stage: output.said}, dropped=dropped)


class DecodeState(msgspec.Struct, frozen=True, omit_defaults=True):
    """The state of decode.

    run     the run that it belongs to; another run reads its files from the start
    number  frames that this run committed
    open    whether the epoch of the last frame has not ended
    done    whether all is committed, including the last end
    fault   why the source ended early, once it is done
    pace    of a file that is read in real time: (began_mono of the run's process, Pace.shift); a
            worker of the same process continues with it, another process computes its own
    lasts_s duration of a file by its container
    form    form of the last frame; None if there was none
    shown   of the last frame, as in Record
    undecoded  those of `number` that were not decoded
    """

    run: str = ""
    number: int = 0
    open: bool = False
    done: bool = False
    fault: str | None = None
    pace: tuple[float, float] | None = None
    lasts_s: float | None = None
    form: Form | None = None
    shown: tuple[int, int] | None = None
    undecoded: int = 0


class SideOutput(msgspec.Struct, frozen=True):
    """The output of a side stage for a frame, as it is in the stage's stream.

    v       version of the record, 1
    before  id of the entry of the stage's previous output
    said    the output
    record  the record of the frame, without the outputs of other stages
    """

    v: int
    before: str
    said: msgspec.Raw
    record: Record


encode = msgspec.msgpack.Encoder().encode
_decode_record = msgspec.msgpack.Decoder(Record).decode
_decode_any: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder()


def decode_record(data: bytes) -> Record:
    """Read a frame entry's `d`; RecordTooNew if a newer Framegate wrote it."""
    return _checked(_decode_record, data)


def decode(data: bytes | msgspec.Raw, kind: type[T]) -> T:
    """Read msgpack as `kind`; msgspec.DecodeError if it is something else."""
    try:
        return msgspec.msgpack.decode(data, type=kind)
    except _NO_RECORD as error:
        raise _unreadable(data, error) from error


def decode_versioned(data: bytes, kind: type[T]) -> T:
    """Read a versioned record of `kind`; RecordTooNew if a newer Framegate wrote it."""
    return _checked(partial(decode, kind=kind), data)


# Errors of msgspec beside its own, for bytes that are nested too deep or are no UTF-8.
_NO_RECORD = (RecursionError, UnicodeDecodeError)


def _unreadable(data: bytes | msgspec.Raw, error: Exception) -> msgspec.DecodeError:
    return msgspec.DecodeError(f"{len(memoryview(data))} bytes that are no record: {error}")


class Versioned(msgspec.Struct, frozen=True):
    """The version of any stored record; a newer record may differ in all other fields."""

    v: int = 1


def _checked(read: Callable[[bytes], T], data: bytes) -> T:
    """Read a record of at most our version. A newer one may fit our type or fail to."""
    try:
        record = read(data)
        version: int = record.v  # type: ignore[attr-defined]
    except _NO_RECORD as error:
        raise _unreadable(data, error) from error
    except msgspec.ValidationError:
        version = decode(data, Versioned).v
        if version <= VERSION:
            raise
    if version > VERSION:
        raise RecordTooNew(
            f"record version {version} ({len(data)} bytes); this Framegate reads up to version "
            f"{VERSION}: read it with the Framegate that wrote it, or a later one"
        )
    return record


def as_builtins(data: bytes) -> Any:
    """Decode any msgpack to plain Python values, for printing."""
    return _decode_any.decode(data)
