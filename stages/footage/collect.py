"""Collect: keeps frames that are worth learning from, beside the main path, in the data folder."""

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
from framegate.models.picture import ByteArray, Picture
from framegate.pipeline.contracts.errors import FrameLost
from framegate.pipeline.contracts.queries import FootageCounts, Predictions
from framegate.pipeline.contracts.records import End, Position
from framegate.pipeline.contracts.stage import Context, Item, Stage
from framegate.stages.detections import Detections, Heard, last_detections
from framegate.stages.footage.footage import grey_of, has_moved
from framegate.stages.footage.kept import (
    Keeper,
    KeptFrame,
    KeptObject,
    Limits,
    Why,
    blanked,
    jpeg_of,
    read_picture,
)
from framegate.stages.planes import as_picture

log = logging.getLogger(__name__)

# -- When a frame is due. Pure.


_FIRST_S: Final = 3.0  # between two frames of a kind, in the mean
_APART_S: Final = 1.0  # between any two: neighbours teach the same
_SLOWER: Final = 200  # after so many of these, one in so long as a part of what has passed
_LAST_S: Final = 300.0
_ORDER: Final[tuple[Why, ...]] = ("audit", "heavy", "change", "doubt", "even")
_LOOKED_AT: Final = 0.1  # of the frames, for what only a look can tell
_UNSURE: Final = 0.5  # an object with a score below is in doubt, where nobody can be asked
_WAITING: Final = 8  # drawn frames of a source whose audit is not over


class CollectState(msgspec.Struct, frozen=True):
    """Of a source.

    began_s  moment at which it began, on the source's clock; None: not yet
    due_s    moment from which the next frame of each kind is kept
    last_s   moment of the last frame that was taken for one
    scene    of the last frame that was looked at
    """

    began_s: float | None = None
    due_s: dict[str, float] = {}
    last_s: float | None = None
    scene: int | None = None


def gap_s(passed_s: float) -> float:
    """Seconds between two frames of a kind, in the mean, so long after the beginning.

    3 at first, so that ten minutes are enough to learn from; then a two hundredth of what passed;
    5 minutes after 17 hours and for ever.
    """
    return min(max(_FIRST_S, passed_s / _SLOWER), _LAST_S)


def share_of(kind: str, source: str, position: Position) -> float:
    """0..1, drawn by what a frame is: the same whoever asks, and of no pattern."""
    key = f"{kind} {source} {position}".encode()
    drawn = int.from_bytes(hashlib.blake2b(key, digest_size=8, person=b"footage").digest())
    return drawn / 2**64


def is_due(state: CollectState, why: Why, moment_s: float) -> bool:
    """Whether a frame of that kind would be kept; also where the clock was set back."""
    if state.last_s is not None and 0 <= moment_s - state.last_s < _APART_S:
        return False
    due = state.due_s.get(why)
    return due is None or moment_s >= due or due - moment_s > 2 * _LAST_S


def after(
    state: CollectState, whys: Sequence[Why], source: str, at: Position, moment_s: float
) -> CollectState:
    """The state once a frame was kept, or looked at in vain, for these reasons."""
    began_s = moment_s if state.began_s is None else min(state.began_s, moment_s)
    gap = gap_s(moment_s - began_s)
    due: dict[str, float] = {
        why: round(moment_s + gap * (0.5 + share_of(why, source, at)), 3) for why in whys
    }
    return CollectState(began_s, {**state.due_s, **due}, moment_s, state.scene)


def in_doubt(found: Detections) -> bool:
    """Whether the heavy pass should have been asked: it was over budget or late, or, where nobody
    can be asked, an object was hardly seen.
    """
    if found.escalation != "none":
        return found.escalation == "degraded"
    return any(one.score < _UNSURE for one in found.objects if one.origin == "detected")


# -- What is done about it.


@dataclass(frozen=True)
class CollectOptions:
    """Options of collect.

    sources  of which; none: all
    bytes    of all footage together
    days     for which it is kept
    masks    source -> polygons in its pixels that are made grey
    """

    sources: tuple[str, ...] = ()
    bytes: int = 1 << 30
    days: float = 30.0
    masks: dict[str, Any] = field(default_factory=dict)


class _Waiting(NamedTuple):
    """A frame whose audit is not over."""

    jpeg: bytes
    record: KeptFrame
    scale: float


class Collect(Stage[CollectState]):
    """Frames in, a few of them kept in DATA/footage; nothing is emitted.

    In     Detections, and the pixels of the frames that are due. Those that come again after a
           kill are written again under their own names
    State  when which kind of frame is due
    Files  see stages.footage.kept
    Fails  never: a frame that cannot be kept is counted, and why is told once until one can be
    """

    Options = CollectOptions
    State = CollectState
    pixels = 1
    options: CollectOptions

    def __init__(self, options: CollectOptions, context: Context) -> None:
        super().__init__(options, context)
        cv2.setNumThreads(1)
        self.footage = self._counts = FootageCounts()
        self._keeper = Keeper(context.folder, Limits(options.bytes, options.days))
        self._last: dict[str, ByteArray] = {}
        for source, newest in self._keeper.open().items():
            try:
                self._last[source] = grey_of(read_picture(newest))
            except PictureDamaged:
                continue
        self._waiting: dict[str, dict[Position, _Waiting]] = {}
        self._is_told = False
        self._counts.nbytes = self._keeper.nbytes

    def each(self, item: Item, state: CollectState) -> tuple[None, CollectState]:
        """Keep it, if it is due for any reason."""
        if item.record.failed is not None or (
            self.options.sources and item.source not in self.options.sources
        ):
            return None, state
        moment_s = item.record.captured
        if not self.context.live(item.source) and item.record.pts is not None:
            moment_s = item.record.pts
        due = [why for why in _ORDER if is_due(state, why, moment_s)]
        if not due and item.source not in self._waiting:
            return None, state
        found = last_detections(item.record)
        heard = found.heard or Heard()
        self._hear(item.source, heard)
        whys = [why for why in due if _is(why, item, found, state)]
        scene = state.scene if "change" in due and not _is_looked_at(item) else found.scene
        state = msgspec.structs.replace(state, scene=scene)
        if not whys:
            return None, state
        self._take(item, found, heard, whys[0], moment_s)
        return None, after(state, whys, item.source, item.position, moment_s)

    def end(self, source: str, end: End, state: CollectState) -> tuple[None, CollectState]:
        """Audits that are not over by now are not waited for."""
        for waiting in self._waiting.pop(source, {}).values():
            self._write(waiting.jpeg, waiting.record)
        return super().end(source, end, state)

    def close(self) -> None:
        """Write what waits."""
        for source in list(self._waiting):
            for waiting in self._waiting.pop(source).values():
                self._write(waiting.jpeg, waiting.record)

    def _take(self, item: Item, found: Detections, heard: Heard, why: Why, moment_s: float) -> None:
        polygons = self.options.masks.get(item.source, ())
        try:
            with self.context.pixels(item) as pixels:
                held = bytes(pixels)
        except FrameLost:
            self._drop("lost")
            return
        seen = blanked(as_picture(memoryview(held), item.record.form), polygons)
        grey = grey_of(seen)
        if not has_moved(self._last.get(item.source), grey):
            self._drop("same")
            return
        self._last[item.source] = grey
        jpeg, size = jpeg_of(seen)
        scale = size[0] / item.record.form.width
        record = self._record(item, found, why, moment_s, seen, size)
        if heard.own is not None:
            record = _with_answer(record, heard.own, scale)
        if not heard.is_drawn:
            self._write(jpeg, record)
            return
        waiting = self._waiting.setdefault(item.source, {})
        waiting[item.position] = _Waiting(jpeg, record, scale)
        if len(waiting) > _WAITING:
            oldest = waiting.pop(min(waiting))
            self._write(oldest.jpeg, oldest.record)

    def _record(
        self,
        item: Item,
        found: Detections,
        why: Why,
        moment_s: float,
        seen: Picture,
        size: tuple[int, int],
    ) -> KeptFrame:
        scale = size[0] / item.record.form.width
        return KeptFrame(
            source=item.source,
            epoch=item.position.epoch,
            seq=item.position.seq,
            moment_s=moment_s,
            kept_at=self._keeper.now(),
            why=why,
            width=size[0],
            height=size[1],
            matrix=seen.matrix,
            full_range=seen.full_range,
            served=tuple(
                KeptObject(one.label, round(one.score, 4), _scaled(one.box, scale))
                for one in found.objects
            ),
            served_by=found.models,
        )

    def _hear(self, source: str, heard: Heard) -> None:
        """Write the frames whose audits are over, with what these say."""
        waiting = self._waiting.get(source)
        if waiting is None:
            return
        for position, true in heard.audited:
            if one := waiting.pop(position, None):
                self._write(one.jpeg, _with_answer(one.record, true, one.scale))
        if not waiting:
            del self._waiting[source]

    def _write(self, jpeg: bytes, record: KeptFrame) -> None:
        now = self._keeper.now()
        try:
            self._keeper.keep(jpeg, record)
        except OSError as error:
            if not self._is_told:
                log.warning(
                    "footage of %s: %s; frames are not kept until this works; the run continues",
                    record.source,
                    error.strerror,
                )
            self._is_told = True
            self._drop("unwritable")
        else:
            if self._is_told:
                log.warning("footage: frames are kept again")
            self._is_told = False
            self._counts.kept[record.why] = self._counts.kept.get(record.why, 0) + 1
        gone = self._keeper.tidy(now)
        self._counts.removed += gone
        self._counts.nbytes = self._keeper.nbytes

    def _drop(self, reason: str) -> None:
        self._counts.dropped[reason] = self._counts.dropped.get(reason, 0) + 1


def _is_looked_at(item: Item) -> bool:
    return share_of("look", item.source, item.position) < _LOOKED_AT


def _is(why: Why, item: Item, found: Detections, state: CollectState) -> bool:
    heard = found.heard or Heard()
    match why:
        case "audit":
            return heard.is_drawn
        case "heavy":
            return heard.own is not None
        case "change":
            return _is_looked_at(item) and state.scene not in (None, found.scene)
        case "doubt":
            return _is_looked_at(item) and in_doubt(found)
        case "even":
            return True


def _with_answer(record: KeptFrame, true: Predictions, scale: float) -> KeptFrame:
    heavy = tuple(
        KeptObject(coco.LABELS[class_id], round(score, 4), _scaled(box, scale))
        for class_id, score, box in zip(true.class_ids, true.scores, true.boxes, strict=True)
    )
    return msgspec.structs.replace(record, heavy=heavy, heavy_models=true.models)


def _scaled(box: Sequence[float], scale: float) -> tuple[float, float, float, float]:
    left, top, right, bottom = (round(edge * scale, 2) for edge in box)
    return left, top, right, bottom
