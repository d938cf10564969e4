"""The stage `collect`: keep frames that are worth learning from in the run's data folder."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import cv2
import msgspec

from framegate.models import coco
from framegate.models.errors import PictureDamaged
from framegate.models.picture import ByteArray, Picture, as_picture
from framegate.pipeline.contracts.errors import FrameLost
from framegate.pipeline.contracts.queries import FootageCounts, Predictions
from framegate.pipeline.contracts.records import End, Position
from framegate.pipeline.contracts.results import Object
from framegate.pipeline.contracts.stage import Context, Item, Stage
from framegate.stages.detections import Detections, Heard, in_pixels_of, last_detections
from framegate.stages.footage.footage import grey_of, has_moved
from framegate.stages.footage.kept_pictures import (
    Keeper,
    KeptFrame,
    KeptObject,
    Limits,
    Why,
    blanked,
    jpeg_of,
    read_picture,
)

log = logging.getLogger(__name__)

# -- The times at which frames are due. Pure.


_MIN_GAP_S: Final = 3.0  # between two frames of a kind, on average
_MAX_GAP_S: Final = 300.0
_SLOWDOWN: Final = 200  # the gap is this part of the time since the beginning
_APART_S: Final = 1.0  # between frames of any kind: neighbours teach the same
_ORDER: Final[tuple[Why, ...]] = ("audit", "heavy", "change", "doubt", "even")
_EXAMINED_SHARE: Final = 0.1  # share of the frames that are examined for changes and doubt
_MIN_SURE: Final = 0.5  # a lower score means doubt, if no heavy pass can be asked
_MAX_WAITING: Final = 8  # frames of a source with a pending audit


class CollectState(msgspec.Struct, frozen=True):
    """The state of a source.

    began_s  first moment, on the source's clock; None: no frame so far
    due_s    moment from which the next frame of each kind is kept
    last_s   moment of the last frame that was kept or considered
    scene    scene of the last frame that was examined
    """

    began_s: float | None = None
    due_s: dict[str, float] = {}
    last_s: float | None = None
    scene: int | None = None


def gap_s(passed_s: float) -> float:
    """Return the mean seconds between two frames of a kind, `passed_s` after the beginning.

    3 s at first, so that ten minutes are enough to learn from; then 1/200 of the passed time, up to
    5 minutes after 17 hours.
    """
    return min(max(_MIN_GAP_S, passed_s / _SLOWDOWN), _MAX_GAP_S)


def share_of(kind: str, source: str, position: Position) -> float:
    """Return a number in 0..1 that a frame alone determines, evenly distributed.

    A frame that is processed again after a kill gets the same number.
    """
    key = f"{kind} {source} {position}".encode()
    drawn = int.from_bytes(hashlib.blake2b(key, digest_size=8, person=b"footage").digest())
    return drawn / 2**64


def is_due(state: CollectState, why: Why, moment_s: float) -> bool:
    """Return whether a frame of that kind would be kept."""
    if state.last_s is not None and 0 <= moment_s - state.last_s < _APART_S:
        return False
    due_s = state.due_s.get(why)
    if due_s is None or moment_s >= due_s:
        return True
    # Further ahead than any gap: the clock was set back.
    return due_s - moment_s > 2 * _MAX_GAP_S


def after(
    state: CollectState, whys: Sequence[Why], source: str, at: Position, moment_s: float
) -> CollectState:
    """Return the state after a frame that was kept, or dropped as unchanged, for these reasons."""
    began_s = moment_s
    if state.began_s is not None:
        began_s = min(state.began_s, moment_s)
    gap = gap_s(moment_s - began_s)
    due: dict[str, float] = {
        why: round(moment_s + gap * (0.5 + share_of(why, source, at)), 3) for why in whys
    }
    return CollectState(began_s, {**state.due_s, **due}, moment_s, state.scene)


def in_doubt(detections: Detections) -> bool:
    """Return whether the heavy pass should have been asked.

    That is so if it was over budget or late, or, in a pipeline without a heavy pass, if the score
    of an object is low.
    """
    if detections.escalation != "none":
        return detections.escalation == "degraded"
    detected = [each for each in detections.objects if each.origin == "detected"]
    return any(each.score < _MIN_SURE for each in detected)


# -- The stage.


@dataclass(frozen=True)
class CollectOptions:
    """Options of collect.

    sources  to keep frames of; empty: all
    bytes    maximum size of all footage together
    days     maximum age of footage
    masks    source -> polygons in its pixels that are made grey
    """

    sources: tuple[str, ...] = ()
    bytes: int = 1 << 30
    days: float = 30.0
    masks: dict[str, Any] = field(default_factory=dict)


class _Waiting(NamedTuple):
    """A frame with a pending audit. scale: size of the kept picture relative to the frame."""

    jpeg: bytes
    record: KeptFrame
    scale: float


class Collect(Stage[CollectState]):
    """Keep some of the frames in DATA/footage, and emit nothing.

    In     Detections, and the pixels of the frames that are due. Frames that are processed again
           after a kill are written again under the same names
    State  the times at which frames of each kind are due
    Files  see stages.footage.kept_pictures
    Fails  never: a frame that cannot be kept is counted, and the reason is logged once until
           a frame can be kept again
    """

    Options = CollectOptions
    State = CollectState
    pixels = 1
    options: CollectOptions

    def __init__(self, options: CollectOptions, context: Context) -> None:
        super().__init__(options, context)
        cv2.setNumThreads(1)
        self._counts = FootageCounts()
        self.footage = self._counts
        self._keeper = Keeper(context.folder, Limits(options.bytes, options.days))
        self._last: dict[str, ByteArray] = {}
        for source, newest in self._keeper.open().items():
            try:
                self._last[source] = grey_of(read_picture(newest))
            except PictureDamaged:
                continue
        self._waiting: dict[str, dict[Position, _Waiting]] = {}
        self._has_failed = False
        self._counts.nbytes = self._keeper.nbytes

    def each(self, item: Item, state: CollectState) -> tuple[None, CollectState]:
        """Keep the frame if it is due for any reason."""
        is_chosen = not self.options.sources or item.source in self.options.sources
        if item.record.failed is not None or not is_chosen:
            return None, state
        moment_s = item.record.captured
        if not self.context.live(item.source) and item.record.pts is not None:
            moment_s = item.record.pts
        due = [why for why in _ORDER if is_due(state, why, moment_s)]
        if not due and item.source not in self._waiting:
            return None, state
        detections = last_detections(item.record)
        heard = detections.heard or Heard()
        self._write_audited(item.source, heard)
        whys = [why for why in due if _applies(why, item, detections, state)]
        # While a change is due, the scene stays, so that an examined frame shows the change.
        if "change" not in due or _is_examined(item):
            state = msgspec.structs.replace(state, scene=detections.scene)
        if not whys:
            return None, state
        self._take(item, detections, heard, whys[0], moment_s)
        return None, after(state, whys, item.source, item.position, moment_s)

    def end(self, source: str, end: End, state: CollectState) -> tuple[None, CollectState]:
        """Write the frames of the source with pending audits without their answers."""
        self._write_waiting(source)
        return super().end(source, end, state)

    def close(self) -> None:
        """Write all frames with pending audits without their answers."""
        for source in list(self._waiting):
            self._write_waiting(source)

    def _write_waiting(self, source: str) -> None:
        for waiting in self._waiting.pop(source, {}).values():
            self._write(waiting.jpeg, waiting.record)

    def _take(
        self, item: Item, detections: Detections, heard: Heard, why: Why, moment_s: float
    ) -> None:
        """Keep a frame unless it equals the last kept one; if it is audited, wait for the audit."""
        polygons = in_pixels_of(item.record, self.options.masks.get(item.source, ()))
        try:
            with self.context.pixels(item) as pixels:
                copy = bytes(pixels)
        except FrameLost:
            self._drop("lost")
            return
        picture = blanked(as_picture(memoryview(copy), item.record.form), polygons)
        grey = grey_of(picture)
        if not has_moved(self._last.get(item.source), grey):
            self._drop("same")
            return
        self._last[item.source] = grey
        jpeg, size = jpeg_of(picture)
        scale = size[0] / item.record.form.width
        record = self._record(item, detections, why, moment_s, picture, size)
        if heard.own is not None:
            record = _with_answer(record, heard.own, scale)
        if not heard.is_drawn:
            self._write(jpeg, record)
            return
        waiting = self._waiting.setdefault(item.source, {})
        waiting[item.position] = _Waiting(jpeg, record, scale)
        if len(waiting) > _MAX_WAITING:
            oldest = waiting.pop(min(waiting))
            self._write(oldest.jpeg, oldest.record)

    def _record(
        self,
        item: Item,
        detections: Detections,
        why: Why,
        moment_s: float,
        picture: Picture,
        size: tuple[int, int],
    ) -> KeptFrame:
        scale = size[0] / item.record.form.width
        served = [_kept(each, scale) for each in detections.objects]
        return KeptFrame(
            source=item.source,
            epoch=item.position.epoch,
            seq=item.position.seq,
            moment_s=moment_s,
            kept_at=self._keeper.now(),
            why=why,
            width=size[0],
            height=size[1],
            matrix=picture.matrix,
            full_range=picture.full_range,
            served=tuple(served),
            served_by=detections.models,
        )

    def _write_audited(self, source: str, heard: Heard) -> None:
        """Write the frames whose audits ended, with the answers of the heavy pass."""
        waiting = self._waiting.get(source)
        if waiting is None:
            return
        for position, answer in heard.audited:
            frame = waiting.pop(position, None)
            if frame is not None:
                self._write(frame.jpeg, _with_answer(frame.record, answer, frame.scale))
        if not waiting:
            del self._waiting[source]

    def _write(self, jpeg: bytes, record: KeptFrame) -> None:
        now = self._keeper.now()
        try:
            self._keeper.keep(jpeg, record)
        except OSError as error:
            if not self._has_failed:
                log.warning(
                    "footage of %s: %s; frames are not kept until this works; the run continues",
                    record.source,
                    error.strerror,
                )
            self._has_failed = True
            self._last.pop(record.source, None)  # it would drop frames that equal it
            self._drop("unwritable")
        else:
            if self._has_failed:
                log.warning("footage: frames are kept again")
            self._has_failed = False
            self._counts.kept[record.why] = self._counts.kept.get(record.why, 0) + 1
        self._counts.removed += self._keeper.tidy(now)
        self._counts.nbytes = self._keeper.nbytes

    def _drop(self, reason: str) -> None:
        self._counts.dropped[reason] = self._counts.dropped.get(reason, 0) + 1


def _is_examined(item: Item) -> bool:
    return share_of("look", item.source, item.position) < _EXAMINED_SHARE


def _applies(why: Why, item: Item, detections: Detections, state: CollectState) -> bool:
    """Return whether a frame is of a kind."""
    heard = detections.heard or Heard()
    match why:
        case "audit":
            return heard.is_drawn
        case "heavy":
            return heard.own is not None
        case "change":
            return _is_examined(item) and state.scene not in (None, detections.scene)
        case "doubt":
            return _is_examined(item) and in_doubt(detections)
        case "even":
            return True


def _with_answer(record: KeptFrame, answer: Predictions, scale: float) -> KeptFrame:
    """Return the record with the objects of the heavy pass."""
    rows = zip(answer.class_ids, answer.scores, answer.boxes, strict=True)
    heavy = tuple(
        KeptObject(coco.LABELS[class_id], round(score, 4), _scaled(box, scale))
        for class_id, score, box in rows
    )
    return msgspec.structs.replace(record, heavy=heavy, heavy_models=answer.models)


def _kept(served: Object, scale: float) -> KeptObject:
    track = served.track
    if served.origin not in ("detected", "escalated"):
        track = None
    return KeptObject(served.label, round(served.score, 4), _scaled(served.box, scale), track)


def _scaled(box: Sequence[float], scale: float) -> tuple[float, float, float, float]:
    left, top, right, bottom = (round(edge * scale, 2) for edge in box)
    return left, top, right, bottom
