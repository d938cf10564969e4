"""Call your own stage in a test: in this process, without a store, workers or a run.

    from framegate import testing

    def test_people_are_counted():
        with testing.Harness(People) as people:
            result = testing.result([testing.detected("person"), testing.detected("car")])
            assert people.feed([result]) == [{"people": 1}]
            assert people.state() == Seen(people=1)

`frames` of a clip or an array feeds a stage that reads pixels.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Self, TypeVar

import msgspec

from framegate.pipeline.config.read_options import read_options, with_variables
from framegate.pipeline.contracts import records, results
from framegate.pipeline.contracts.errors import ConfigFaults, FrameLost
from framegate.pipeline.contracts.records import VERSION, End, Position, Record
from framegate.pipeline.contracts.results import Object, Result
from framegate.pipeline.contracts.source import Frame
from framegate.pipeline.contracts.stage import WAITS, Item, Stage, check_states
from framegate.pipeline.engine.context_alone import context_alone

if TYPE_CHECKING:
    import os

    import numpy as np
    import numpy.typing as npt

__all__ = ["Harness", "StageInput", "detected", "frames", "result"]

S = TypeVar("S")
SOURCE = "clip"


class StageInput(NamedTuple):
    """One frame for a stage; `pixels`: planar YUV 4:2:0 of the size in `item.record.form`."""

    item: Item
    pixels: bytes


def frames(
    clip: str | os.PathLike[str] | npt.NDArray[np.uint8],
    source: str = SOURCE,
    *,
    epoch: int = 1,
    fps: float = 25.0,
) -> Iterator[StageInput]:
    """Yield the frames of a clip, or of an array, for `Harness.feed`.

    clip    path of a video file; or an array uint8, (frames, height, width, 3) RGB, or (frames,
            height, width) grey. RGB becomes full-range YUV
    source  name of the source that they are frames of
    epoch   1 or more; for a second clip of the same source, pass a greater number
    fps     frames per second of an array: its time stamps are 0, 1/fps, 2/fps, ...

    errors.SourceFault for a file that cannot be decoded; ValueError for an array of another shape.
    """
    is_array = hasattr(clip, "ndim")
    pictures = _decoded(clip) if is_array else _opened(clip)
    for number, frame in enumerate(pictures):
        pixels = bytearray(frame.nbytes)
        frame.write(memoryview(pixels))
        seconds = frame.pts
        if is_array:
            seconds = number / fps
        record = Record(
            v=VERSION,
            pts=seconds,
            captured=seconds or 0.0,
            captured_from="file",
            arrived=time.monotonic(),
            number=number,
            form=frame.form,
            key_frame=frame.key_frame,
        )
        yield StageInput(Item(source, Position(epoch, number), record), bytes(pixels))


def _opened(clip: Any) -> Iterator[Frame]:
    from framegate.stages.decode.file import FileSource

    opened = FileSource(str(clip))
    try:
        yield from opened.frames()
    finally:
        opened.close()


def _decoded(array: Any) -> Iterator[Frame]:
    import av
    from av.video.reformatter import VideoReformatter

    from framegate.stages.decode.frame import DecodedFrame

    kind = {3: "gray", 4: "rgb24"}.get(array.ndim)
    has_channels = array.ndim == 3 or (array.ndim == 4 and array.shape[3] == 3)
    if kind is None or not has_channels or str(array.dtype) != "uint8":
        raise ValueError(
            "the array must be uint8 of shape (frames, height, width, 3) or (frames, height, "
            f"width), got {array.dtype} of shape {array.shape}"
        )
    converter = VideoReformatter()
    for picture in array:
        yield DecodedFrame(av.VideoFrame.from_ndarray(picture, kind), converter)


def detected(
    label: str,
    box: tuple[float, float, float, float] = (0.0, 0.0, 10.0, 10.0),
    *,
    track: int | None = 1,
    score: float = 0.9,
    class_id: int = 0,
) -> Object:
    """Return an object as a detector reports it; box: x1, y1, x2, y2 in pixels of the frame."""
    return Object(track, label, class_id, score, box, "detected")


def result(
    objects: Iterable[Object] = (),
    seq: int = 0,
    *,
    source: str = SOURCE,
    pts: float | None = None,
    **fields: Any,
) -> Result:
    """Return the result of a frame in which a detector sees these objects, for `Harness.feed`.

    pts     seconds; default: seq / 25
    fields  other fields of Result, instead of the defaults: epoch 1, size 640 x 360, ...
    """
    seconds = seq / 25.0 if pts is None else pts
    defaults: dict[str, Any] = {
        "v": VERSION,
        "epoch": 1,
        "captured": seconds,
        "captured_from": "file",
        "published": seconds,
        "width": 640,
        "height": 360,
        "outcome": "detected",
        "looked": "whole",
        "escalation": "none",
        "reason": "every_frame",
        "models": (),
        "age_s": 0.0,
        "scene": 1,
    }
    given = {"source": source, "seq": seq, "pts": seconds, "objects": tuple(objects)}
    return Result(**{**defaults, **given, **fields})


class Harness(Generic[S]):
    """A stage outside a run: feed frames or results, look at outputs and states.

    As in a run, a batch has at most `batch` frames, msgpack must be able to encode outputs and
    states, and the stage gets each state as the store would return it. Unlike in a run, an
    exception of the stage reaches the caller.

    stage    the stage
    context  its context, with planes and rings of this process, and `folder`
    Thread   one thread at a time
    """

    def __init__(
        self,
        kind: type[Stage[S]],
        options: Mapping[str, Any] | None = None,
        *,
        before: str = "cache",
        folder: str | os.PathLike[str] | None = None,
        batch: int | None = None,
        now: float = 0.0,
        **others: Any,
    ) -> None:
        """Open the stage.

        options  keys of its table in pipeline.toml; ConfigFaults with all faults of them
        before   name of the stage whose outputs it reads
        folder   data folder of the run; default: a temporary one, removed by `close`
        batch    maximum number of frames in one call of `process`; default: that of the stage
        now      time of its context, in UNIX seconds
        others   other fields of Context: asks, live, past, model, sound
        """
        faults: list[str] = []
        named = with_variables(kind.Options, dict(options or {}), "", faults)
        read = read_options(kind.Options, named, "", faults)
        if faults:
            raise ConfigFaults(faults)
        self._temporary: TemporaryDirectory[str] | None = None
        if folder is None:
            self._temporary = TemporaryDirectory()
            folder = self._temporary.name
        self._pixels: dict[tuple[str, Position], bytes] = {}
        self._states: dict[str, S] = {}
        self._waiting: list[StageInput] = []
        self._batch = batch or kind.batch
        self._kind = kind
        self.context = context_alone(self._frame, lambda: now, Path(folder), before, **others)
        self.stage = kind(read, self.context)

    def feed(
        self, given: Iterable[StageInput | Result], before: Iterable[Any] | None = None
    ) -> list[Any]:
        """Give frames to the stage and return its outputs, one per frame; None for no output.

        given   `frames` of clips and arrays, or published results; those of a source in order
        before  for each frame an output of the previous stage, which `Item.output_of` returns. For
                a result, the result itself is that output

        A frame for which the stage returns WAITS has no output in this call. It is given again in
        the next call, which returns its output. TypeError for an output that msgpack cannot encode,
        one that is not a Result if the stage publishes, or a state that is not of its `State`.
        """
        outputs: list[Any] = []
        batch, self._waiting = self._waiting, []
        for frame in self._framed(given, before):
            batch.append(frame)
            if len(batch) >= self._batch and not self._waiting:
                outputs += self._call(batch)
                batch = []
        if self._waiting:
            self._waiting += batch
            return outputs
        return outputs + self._call(batch)

    def state(self, source: str = SOURCE) -> S:
        """Return the state of a source, as the store would hold it."""
        if source in self._states:
            return self._states[source]
        initial: S = self._kind.State()
        return initial

    def end(self, source: str = SOURCE, *, last: bool = True, fault: str | None = None) -> Any:
        """End the epoch of a source and return the last output of the stage, or None.

        last   True if the source ends with this epoch
        fault  why the epoch ended, if the source was not complete
        """
        end = End(VERSION, 0, last, fault=fault)
        output, state = self.stage.end(source, end, self.state(source))
        self._keep({source: state})
        if output is not WAITS:
            records.encode(output)  # fails here as it would in a run
        return output

    def close(self) -> None:
        """Close the stage, and remove a temporary folder."""
        self.stage.close()
        if self._temporary is not None:
            self._temporary.cleanup()

    def _framed(
        self, given: Iterable[StageInput | Result], before: Iterable[Any] | None
    ) -> Iterator[StageInput]:
        """Yield everything as frames, whose records have the outputs of the previous stage."""
        outputs = None if before is None else iter(before)
        name = self.context.before
        for frame in given:
            if isinstance(frame, Result):
                record = results.record_of_result(records.encode(frame), name)
                yield StageInput(Item(frame.source, frame.position, record), b"")
            elif outputs is None:
                yield frame
            else:
                item = frame.item
                output = msgspec.Raw(records.encode(next(outputs)))
                known = {**item.record.said, name: output}
                record = msgspec.structs.replace(item.record, said=known)
                yield StageInput(item._replace(record=record), frame.pixels)

    def _call(self, batch: Sequence[StageInput]) -> list[Any]:
        if not batch:
            return []
        self._pixels = {(item.source, item.position): pixels for item, pixels in batch}
        items = [frame.item for frame in batch]
        states = {item.source: self.state(item.source) for item in items}
        outputs, after = self.stage.process(items, states)
        if len(outputs) != len(items):
            raise ValueError(f"{len(outputs)} outputs for {len(items)} frames")
        if self._kind.publishes:
            results.check_results(outputs)
        self._keep(after)
        self._waiting += [f for f, o in zip(batch, outputs, strict=True) if o is WAITS]
        given = [output for output in outputs if output is not WAITS]
        for output in given:
            records.encode(output)  # fails here as it would in a run
        return given

    def _keep(self, states: Mapping[str, S]) -> None:
        check_states(self._kind.State, states)
        for source, state in states.items():
            self._states[source] = records.decode(records.encode(state), self._kind.State)

    @contextmanager
    def _frame(self, item: Item) -> Iterator[memoryview]:
        pixels = self._pixels.get((item.source, item.position))
        where = f"source {item.source} frame {item.position}"
        if not self._kind.pixels:
            raise FrameLost(f"{where}: {self._kind.__name__} must set pixels = 1 to read pixels")
        if not pixels:
            raise FrameLost(f"{where}: a result has no pixels; feed frames")
        yield memoryview(pixels)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
