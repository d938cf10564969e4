"""The stage windows: one window for each tracked object, and a visit when its track ends."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeAlias, get_args

import msgspec

from framegate.pipeline.contracts import records
from framegate.pipeline.contracts.moments import StoredMoment
from framegate.pipeline.contracts.records import End, Position
from framegate.pipeline.contracts.results import BeginReason, Object, sounds_with
from framegate.pipeline.contracts.stage import Context, Item, PlanePort, PlaneRef, Stage
from framegate.pipeline.contracts.visits import LastVisits, Visit
from framegate.stages.detections import Detections, last_detections
from framegate.stages.windows.evidence import (
    TrackEvidence,
    first_double,
    is_furniture,
    is_moving,
    is_unsure,
    stirs,
)
from framegate.stages.windows.object_window import (
    ObjectWindow,
    absent,
    looked,
    published,
    visit,
    watched,
)

log = logging.getLogger(__name__)

LAYOUT: Final = 4  # of the stored windows; each change of ObjectWindow or TrackEvidence adds 1
# Seconds without the object after which its track has ended. The tracker continues a track that
# was lost for up to one second of looks.
END_S: Final = 5.0
MAX_WINDOWS: Final = 384  # of a source; beyond it those that are gone for longest end
MAX_BEGINNINGS: Final = 12  # in the small state, which is written with each frame: 28 bytes each
MAX_SOUNDS: Final = 8  # of a window
_PLANE_BYTES: Final = MAX_WINDOWS * 2048
_PERIOD_S: Final = 0.04  # duration of a frame without a time stamp
_LONGEST_MS: Final = 200  # that a frame counts
# Reasons of frames that the gate compares with nothing.
_UNCOMPARED: Final = frozenset({"undecoded", "every_frame", *get_args(BeginReason)})

ObjectWindows: TypeAlias = Mapping[int, ObjectWindow]


class Beginning(NamedTuple):
    """The least that a visit needs, in case its window is lost."""

    number: int
    label: str
    began: StoredMoment


class WindowsState(msgspec.Struct, frozen=True, array_like=True):
    """The stored state of one source.

    at       last frame; None before the first
    size     width and height of the picture, pixels
    windows  reference to the windows in the stage's plane; None: there is none
    begun    the newest visits in short, at most MAX_BEGINNINGS. A power cut can lose the plane
    layout   LAYOUT of the version that wrote the windows; 0: it did not number them. A version with
             another layout loses the windows instead of misreading them
    """

    at: StoredMoment | None = None
    size: tuple[int, int] = (1, 1)
    windows: PlaneRef | None = None
    begun: tuple[Beginning, ...] = ()
    layout: int = 0


@dataclass(frozen=True)
class WindowsOptions:
    """Options of windows.

    decides  whether it decides by its windows which objects are published. A promise needs the
             objects that were audited
    """

    decides: bool = field(default=True, metadata={"hidden": True})


class Windows(Stage[WindowsState]):
    """The stage that keeps the windows of the tracked objects, and decides by them.

    In     Detections
    Out    Detections with the visits that ended, with the candidates that are objects by the
           evidence of their windows, and without the objects that are furniture; None if that
           changes nothing
    State  the windows, in a plane; the beginnings of visits are in the small state as well
    """

    Options = WindowsOptions
    State = WindowsState
    followed = False
    options: WindowsOptions

    def __init__(self, options: WindowsOptions, context: Context) -> None:
        super().__init__(options, context)
        self._live: dict[str, tuple[WindowsState, ObjectWindows]] = {}

    def process(
        self, batch: Sequence[Item], states: Mapping[str, WindowsState]
    ) -> tuple[list[Detections | None], Mapping[str, WindowsState]]:
        """Return the detections of each frame that the windows change."""
        after = dict(states)
        live: dict[str, ObjectWindows] = {}
        outputs: list[Detections | None] = []
        for item in batch:
            source, state = item.source, after[item.source]
            if source not in live:
                live[source] = self._windows_of(source, state)
            detections = last_detections(item.record)
            now = _moment(item, state.at)
            stepped = step(
                live[source], detections, state.at, now, _heard(item), self.options.decides
            )
            visits, live[source] = ended(stepped.windows, now, source, state.size)
            form = item.record.form
            after[source] = msgspec.structs.replace(state, at=now, size=(form.width, form.height))
            output: Detections | None = None
            if visits or stepped.objects is not detections.objects:
                output = msgspec.structs.replace(
                    detections,
                    visits=visits,
                    objects=stepped.objects,
                    seen=(),
                    feature_model="",
                    candidates=(),
                    refuted=(),
                    confirmed=(),
                    least={},
                    sure={},
                )
            outputs.append(output)
        for source, windows in live.items():
            after[source] = self._kept(source, windows, after[source], states[source])
        return outputs, after

    def end(
        self,
        source: str,
        end: End,  # noqa: ARG002
        state: WindowsState,
    ) -> tuple[LastVisits | None, WindowsState]:
        """End all visits: another epoch has other tracks."""
        windows = self._windows_of(source, state)
        self._live.pop(source, None)
        at = state.at
        if at is None or not windows:
            return None, WindowsState()
        visits = [
            visit(each, each.last or at, source, state.size)
            for each in windows.values()
            if each.began is not None
        ]
        if not visits:
            return None, WindowsState()
        return LastVisits(tuple(visits)), WindowsState()

    def _windows_of(self, source: str, state: WindowsState) -> ObjectWindows:
        """Return the windows that a stored state names."""
        stored, live = self._live.get(source, (None, None))
        if live is not None and (stored is state or stored == state):
            return live
        data: bytes | None = None
        if state.windows is not None and state.layout != LAYOUT:
            log.warning(
                "%s: another version of Framegate stored the windows of its objects (layout %d; "
                "this one reads %d): they begin again, and %d visits keep only their beginning",
                source, state.layout, LAYOUT, len(state.begun),
            )  # fmt: skip
        elif state.windows is not None:
            data = self._plane(source).read(state.windows)
        if data is None:
            lost = [_lost_window(each, state.at or each.began) for each in state.begun]
            return {window.number: window for window in lost}
        windows = records.decode(data, tuple[ObjectWindow, ...])
        return {window.number: window for window in windows}

    def _kept(
        self, source: str, windows: ObjectWindows, state: WindowsState, stored: WindowsState
    ) -> WindowsState:
        """Write the windows if they changed; return the new state for the engine to store.

        stored  the state stored before
        """
        _, before = self._live.get(source, (None, None))
        if windows is not before:
            reference: PlaneRef | None = None
            if windows and state.at is not None:
                data = records.encode(tuple(windows.values()))
                position = Position(state.at.epoch, state.at.seq)
                reference = self._plane(source).write(position, data, stored.windows)
            begun = [each for each in windows.values() if each.began is not None]
            shorts = tuple(
                Beginning(each.number, each.label, each.began)
                for each in begun[-MAX_BEGINNINGS:]
                if each.began is not None
            )
            state = msgspec.structs.replace(state, windows=reference, begun=shorts, layout=LAYOUT)
        self._live[source] = state, windows
        return state

    def _plane(self, source: str) -> PlanePort:
        return self.context.plane(source, _PLANE_BYTES)


class Stepped(NamedTuple):
    """The windows after a frame, and its objects; the same objects as before if nothing changed."""

    windows: ObjectWindows
    objects: tuple[Object, ...]


def step(
    windows: ObjectWindows,
    detections: Detections,
    before: StoredMoment | None,
    now: StoredMoment,
    sounds: Sequence[str] = (),
    decides: bool = True,
) -> Stepped:
    """Return the windows after a frame, and the objects that are published. A pure function.

    before   the frame before; None: there is none
    sounds   labels that were heard with this frame
    decides  whether the windows decide about objects; otherwise those of `detections` are published
    """
    there = _tracked(detections.objects)
    candidates = _possible(detections, windows)
    hidden = _tracked((*candidates, *detections.refuted))
    lasts_ms = _LONGEST_MS
    if before is not None:
        lasts_ms = min(now.ms - before.ms, _LONGEST_MS)
    after: dict[int, ObjectWindow] = {}
    for number, detected in (*hidden.items(), *there.items()):
        window = windows.get(number)
        compared = _compared(window, detected, detections, lasts_ms)
        after[number] = watched(window, detected, compared)
    objects, shown = detections.objects, there
    if decides:
        objects = _decided(detections, candidates, after)
    if objects is not detections.objects:
        shown = _tracked(objects)
    looks = {each.track: each for each in detections.seen}
    for number, detected in shown.items():
        window = published(after[number], detected, now)
        if number in looks:
            window = looked(window, looks[number], detections.feature_model)
        if sounds:
            labels = tuple(dict.fromkeys((*window.sounds, *sounds)))[:MAX_SOUNDS]
            window = msgspec.structs.replace(window, sounds=labels)
        after[number] = window
    for number, window in windows.items():
        if number not in shown:
            is_there = number in there or number in hidden
            after[number] = absent(after.get(number, window), before or now, is_there)
    for number, window in after.items():
        if windows.get(number) is not window:
            return Stepped({**windows, **after}, objects)
    return Stepped(windows, objects)


def _possible(detections: Detections, windows: ObjectWindows) -> list[Object]:
    """Return the candidates with the score to appear, and those that were published in the frame
    before, for which less is enough.
    """
    possible = []
    for each in detections.candidates:
        window = windows.get(each.track or 0)
        is_published = window is not None and window.began is not None and window.last is None
        if is_published or each.score > detections.least.get(each.label, 0.0):
            possible.append(each)
    return possible


def _tracked(objects: Sequence[Object]) -> dict[int, Object]:
    if not objects:  # of the candidates of most frames
        return {}
    return {each.track: each for each in objects if each.track is not None}


def _compared(
    window: ObjectWindow | None, detected: Object, detections: Detections, lasts_ms: int
) -> TrackEvidence:
    """Return the evidence after the comparison of a frame, if it has one, of an unsure object.

    A frame without a comparison, as one that was not decoded, shows neither life nor its absence.
    """
    evidence = TrackEvidence()
    if window is not None:
        evidence = window.evidence
    if detections.reason in _UNCOMPARED or not is_unsure(evidence, detected, detections):
        return evidence
    return evidence.compared(stirs(detected, detections.changes), lasts_ms)


def _decided(
    detections: Detections, candidates: Sequence[Object], windows: ObjectWindows
) -> tuple[Object, ...]:
    """Return the published objects: those of detect or the heavy model that are no furniture, and
    moving candidates.

    An object that only the heavy model sees, in the place of such an object of detect and of its
    class, is that object: it has its track.
    """
    moving = [
        each
        for each in candidates
        if each.track is not None and is_moving(windows[each.track].evidence, each)
    ]
    furniture = {
        each.track
        for each in (*detections.objects, *detections.refuted)
        if each.track is not None and is_furniture(windows[each.track].evidence, each, detections)
    }
    if not moving and not furniture and not detections.refuted:
        return detections.objects
    objects = [each for each in detections.objects if each.track not in furniture]
    refuted = [each for each in detections.refuted if each.track not in furniture]
    for each in (*refuted, *moving):
        if each.track in _tracked(objects):  # of a correction
            continue
        double = first_double(each, objects)
        if double is None:
            objects.append(each)
        elif objects[double].untracked == "heavy" and objects[double].label == each.label:
            objects[double] = msgspec.structs.replace(
                objects[double], track=each.track, untracked=None
            )
    return tuple(objects)


def ended(
    windows: ObjectWindows, now: StoredMoment, source: str, size: tuple[int, int]
) -> tuple[tuple[Visit, ...], ObjectWindows]:
    """Return the visits that have ended by this frame, and the windows that are left.

    size  width and height of the picture, pixels
    """
    over: dict[int, StoredMoment] = {}
    now_ms = now.ms
    for number, window in windows.items():
        if window.away is not None and now_ms - window.away.ms > END_S * 1000:
            over[number] = window.away
    excess = len(windows) - len(over) - MAX_WINDOWS
    if excess > 0:
        aways = {number: window.away or now for number, window in windows.items()}
        rest = [number for number in sorted(aways, key=aways.__getitem__) if number not in over]
        over |= {number: aways[number] for number in rest[:excess]}
    if not over:
        return (), windows
    visits = tuple(
        visit(windows[number], windows[number].last or last, source, size)
        for number, last in over.items()
        if windows[number].began is not None
    )
    left = {number: window for number, window in windows.items() if number not in over}
    return visits, left


def _lost_window(beginning: Beginning, at: StoredMoment) -> ObjectWindow:
    """Return the window of a begun visit of which nothing else is known.

    at  last frame before the loss; until then the object counts as moving
    """
    number, label, began = beginning
    return ObjectWindow(number, label, began, still_ms=at.ms - began.ms)


def _moment(item: Item, before: StoredMoment | None) -> StoredMoment:
    """Return the moment of a frame. Media time never decreases within an epoch."""
    record, position = item.record, item.position
    media_s = record.pts or 0.0
    if before is not None and before.epoch == position.epoch:
        if record.pts is None:
            media_s = before.media_s + _PERIOD_S
        media_s = max(media_s, before.media_s)
    return StoredMoment(*position, round(media_s, 6), round(record.captured, 6))


def _heard(item: Item) -> tuple[str, ...]:
    """Return the labels of the sounds that ended with a frame."""
    sounds = sounds_with(item.record)
    if sounds is None:
        return ()
    labels: list[str] = []
    for window in sounds.windows:
        labels += [sound.label for sound in window.labels]
    return tuple(labels)
