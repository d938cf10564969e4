"""A clip through detect and escalate themselves, escalate once for each setting.

All settings see the same looks of detect and the same answers, which are waited for as a file's
are. So the outcome does not depend on the machine, but for detect's precision; its CPU does.
"""

from __future__ import annotations

import select
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from benchmarks.harness.gate_clips import GateClip
from benchmarks.harness.heavy_truth import DetectorAnswers
from framegate.models.boxes import Boxes
from framegate.models.detector.detector import Detector
from framegate.models.picture import Picture, as_picture
from framegate.pipeline.contracts import records
from framegate.pipeline.contracts.queries import Predictions, Query
from framegate.pipeline.contracts.records import Position, Record
from framegate.pipeline.contracts.results import Object
from framegate.pipeline.contracts.source import Frame, Request
from framegate.pipeline.contracts.stage import Context, Item
from framegate.pipeline.engine.context_alone import context_alone
from framegate.pipeline.heavy.asks import Asks
from framegate.stages.decode.file import FileSource
from framegate.stages.detect import Detect
from framegate.stages.detect.options import CacheOptions
from framegate.stages.detections import Detections
from framegate.stages.escalate import Escalate
from framegate.stages.escalate.options import EscalateOptions, StageOptions
from framegate.stages.escalate.policy import EscalateState
from framegate.stages.model_adapters import as_predictions

Flags = npt.NDArray[np.bool_]
_TIMED: Final = 40  # heavy passes of each clip
_TELL_S: Final = 15.0
_SOURCE: Final = "clip"


class ReplaySetting(NamedTuple):
    """Of `[escalate]`: from which doubt on it asks, how often a second, how often at once."""

    doubt: float
    per_s: float
    burst: float


class Sight(NamedTuple):
    """A frame: what detect says of it, and the source's clock."""

    found: Detections
    now_s: float


@dataclass(slots=True)
class Arm:
    """What came of a setting, an entry a frame; cpu_s: of escalate itself, without the answers."""

    shown: list[Boxes] = field(default_factory=list)
    asked: list[bool] = field(default_factory=list)
    degraded: int = 0
    cpu_s: float = 0.0


@dataclass(slots=True)
class Replayed:
    """A clip, an entry a frame.

    heavy      boxes of the heavy pass; heavy_s: CPU of each that was measured, all over the clip
    light      boxes of detect; light_s: its CPU, summed
    arms       what each setting made of that
    """

    size: tuple[int, int] = (0, 0)
    stamps: list[float] = field(default_factory=list)
    sights: list[Sight] = field(default_factory=list)
    heavy: list[Boxes] = field(default_factory=list)
    light: list[Boxes] = field(default_factory=list)
    arms: dict[ReplaySetting, Arm] = field(default_factory=dict)
    light_s: float = 0.0
    heavy_s: list[float] = field(default_factory=list)

    @property
    def light_ms(self) -> float:
        """CPU of detect, milliseconds a frame."""
        return 1e3 * self.light_s / len(self.light)

    @property
    def heavy_ms(self) -> float:
        """CPU of a heavy pass, milliseconds."""
        return 1e3 * statistics.fmean(self.heavy_s)

    def share(self, setting: ReplaySetting) -> float:
        """Of frames that the setting asked about."""
        return float(np.mean(self.arms[setting].asked))

    def cost_ms(self, setting: ReplaySetting) -> float:
        """CPU of detect, escalate and all answers, milliseconds a frame."""
        own_ms = 1e3 * self.arms[setting].cpu_s / len(self.light)
        return self.light_ms + own_ms + self.share(setting) * self.heavy_ms


class _Known:
    """A place (`queries.Place`) that has the answer about the frame in hand."""

    lanes, most = 1, 1
    sent_bytes, wire_s = 0, 0.0
    seen = Predictions((), (), (), ())

    def answer(self, questions: Sequence[Query]) -> Sequence[Predictions]:
        """At once."""
        return [self.seen for _ in questions]

    def close(self) -> None:
        """Nothing is held."""


class Stages:
    """Detect, and escalate for each setting, of one clip. One thread."""

    def __init__(
        self, settings: Sequence[ReplaySetting], classes: Sequence[str], folder: Path
    ) -> None:
        """classes: that detect reports; folder: for what stages pin.

        Detect remembers no input: a clip that is played over would cost nothing.
        """
        self._pixels = memoryview(b"")
        self._place = _Known()
        options = Detect.Options(classes=tuple(classes), cache=CacheOptions(exact=False))
        self.detect = Detect(options, self._context(folder, "decode"))
        context = self._context(folder, "detect", asks=lambda _, __: Asks(self._place))
        self._arms = {setting: self._arm(setting, context) for setting in settings}
        self._states: dict[object, Any] = {}

    def _context(self, folder: Path, before: str, **others: Any) -> Context:
        return context_alone(self._held, lambda: 0.0, folder, before, **others)

    def _arm(self, setting: ReplaySetting, context: Context) -> Escalate:
        options = EscalateOptions("local", **setting._asdict())
        return Escalate(StageOptions(escalate=options), context)

    @contextmanager
    def _held(self, item: Item) -> Iterator[memoryview]:  # noqa: ARG002
        yield self._pixels

    def warm_up(self, item: Item, pixels: memoryview) -> None:
        """The first look at a size takes longer: it is nobody's."""
        self._pixels = pixels
        self.detect.process([item], {item.source: self.detect.State()})

    def frame(self, item: Item, pixels: memoryview, seen: Predictions, into: Replayed) -> None:
        """One frame through all of them; seen: by the heavy pass."""
        self._pixels, self._place.seen = pixels, seen
        began = time.process_time()
        found, _ = self._said(self.detect, "detect", item)
        into.light_s += time.process_time() - began
        into.light.append(boxes_of(found.objects))
        after = item._replace(record=_with(item.record, found))
        clock_s = 0.0
        for setting, stage in self._arms.items():
            arm = into.arms.setdefault(setting, Arm())
            began = time.process_time()
            said, state = self._said(stage, setting, after)
            arm.cpu_s += time.process_time() - began
            arm.shown.append(boxes_of(said.objects))
            arm.asked.append(said.escalation == "done")
            arm.degraded += said.escalation == "degraded"
            assert isinstance(state, EscalateState)
            clock_s = state.clock_s
        into.sights.append(Sight(found, clock_s))

    def _said(self, stage: Any, name: object, item: Item) -> tuple[Detections, Any]:
        """One frame through a stage, from where it stood; and where it stands."""
        states = {item.source: self._states.get(name, stage.State())}
        while True:
            [output], after = stage.process([item], states)
            if isinstance(output, Detections):
                self._states[name] = after[item.source]
                return output, after[item.source]
            select.select([stage.asks.fileno()], [], [])
            stage.asks.hear()

    def close(self) -> None:
        """End the stages."""
        for arm in self._arms.values():
            arm.close()


def replay(
    clip: GateClip,
    settings: Sequence[ReplaySetting],
    heavy: Detector,
    answers: DetectorAnswers,
    folder: Path,
) -> Replayed:
    """The clip from its first frame on; prints how far it is.

    heavy  as `answers` asks it; detect reports its classes
    """
    replayed = Replayed()
    classes = [heavy.labels[number] for number in heavy.class_ids]
    every = max(1, clip.frames // _TIMED)
    began = told = time.monotonic()
    with ExitStack() as stack:
        stages = stack.enter_context(closing(Stages(settings, classes, folder)))
        for item, pixels, picture in _frames(clip):
            if not replayed.stamps:
                replayed.size = picture.width, picture.height
                stages.warm_up(item, pixels)
                heavy.detect([picture])
            boxes = answers.of(picture).boxes
            replayed.heavy.append(boxes)
            replayed.stamps.append(item.record.pts or 0.0)
            if item.position.seq % every == 0:
                replayed.heavy_s.append(_cpu_s(heavy, picture))
            stages.frame(item, pixels, as_predictions(boxes, heavy.models), replayed)
            if (now := time.monotonic()) > told + _TELL_S:
                told = now
                done = len(replayed.light)
                print(f"  {clip.name}: {done}/{clip.frames}, {now - began:.0f} s", flush=True)
    return replayed


def _cpu_s(detector: Detector, picture: Picture) -> float:
    began = time.process_time()
    detector.detect([picture])
    return time.process_time() - began


def _frames(clip: GateClip) -> Iterator[tuple[Item, memoryview, Picture]]:
    with closing(FileSource(Request(str(clip.path)))) as source:
        for seq, frame in enumerate(source.frames()):
            if seq == clip.frames:
                return
            pixels = memoryview(bytearray(frame.nbytes))
            frame.write(pixels)
            item = Item(_SOURCE, Position(1, seq), _record(frame, seq, clip.fps))
            yield item, pixels, as_picture(pixels, frame.form)


def _record(frame: Frame, seq: int, fps: float) -> Record:
    pts = seq / fps if frame.pts is None else frame.pts
    return Record(records.VERSION, pts, 0.0, 0.0, seq, frame.form, key_frame=frame.key_frame)


def _with(record: Record, found: Detections) -> Record:
    return msgspec.structs.replace(record, said={"detect": msgspec.Raw(records.encode(found))})


def boxes_of(objects: Sequence[Object]) -> Boxes:
    """Objects as boxes, highest score first."""
    ordered = sorted(objects, key=lambda one: -one.score)
    return Boxes(
        np.array([one.box for one in ordered], np.float32).reshape(-1, 4),
        np.array([one.score for one in ordered], np.float32),
        np.array([one.class_id for one in ordered], np.int32),
    )
