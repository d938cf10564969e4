"""The stage windows: one window for each tracked object, and a visit when its track ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

import msgspec

from framegate.pipeline.contracts import records
from framegate.pipeline.contracts.records import End, Position
from framegate.pipeline.contracts.results import sounds_with
from framegate.pipeline.contracts.stage import Context, Item, PlanePort, PlaneRef, Stage
from framegate.pipeline.contracts.visits import LastVisits, Visit
from framegate.stages.detections import Detections, last_detections
from framegate.stages.windows.object_window import Mark, ObjectWindow, begun, looked, seen, visit

# Seconds without the object after which its track has ended. The tracker continues a track that
# was lost for up to one second of looks.
END_S: Final = 5.0
MAX_WINDOWS: Final = 128  # of a source; beyond it those that are gone for longest end
MAX_SOUNDS: Final = 8  # of a window
_PLANE_BYTES: Final = MAX_WINDOWS * 2048
_PERIOD_S: Final = 0.04  # duration of a frame without a time stamp

ObjectWindows: TypeAlias = Mapping[int, ObjectWindow]


class Beginning(NamedTuple):
    """The least that a visit needs, in case its window is lost."""

    number: int
    label: str
    began: Mark


class WindowsState(msgspec.Struct, frozen=True, array_like=True):
    """The stored state of one source.

    at       last frame; None before the first
    size     width and height of the picture, pixels
    model    models of the last frame
    windows  reference to the windows in the stage's plane; None: there is none
    begun    the same tracks, in short. After a restart of the machine the plane is empty
    """

    at: Mark | None = None
    size: tuple[int, int] = (1, 1)
    model: str = ""
    windows: PlaneRef | None = None
    begun: tuple[Beginning, ...] = ()


class Windows(Stage[WindowsState]):
    """The stage that keeps the windows of the tracked objects.

    In     Detections
    Out    Detections with the visits that ended; None if no visit ended
    State  the windows, in a plane; what begun visits need at least is in the small state
    """

    State = WindowsState
    followed = False

    def __init__(self, options: Any, context: Context) -> None:
        super().__init__(options, context)
        self._live: dict[str, tuple[WindowsState, ObjectWindows]] = {}

    def process(
        self, batch: Sequence[Item], states: Mapping[str, WindowsState]
    ) -> tuple[list[Detections | None], Mapping[str, WindowsState]]:
        """Return the detections of each frame with the visits that ended."""
        after = dict(states)
        live: dict[str, ObjectWindows] = {}
        outputs: list[Detections | None] = []
        for item in batch:
            source, state = item.source, after[item.source]
            if source not in live:
                live[source] = self._windows_of(source, state)
            detections = last_detections(item.record)
            now = _mark(item, state.at)
            windows = step(live[source], detections, state.at, now, _heard(item))
            visits, live[source] = ended(windows, now, source, state.size, state.model)
            form = item.record.form
            after[source] = msgspec.structs.replace(
                state,
                at=now,
                size=(form.width, form.height),
                model=" ".join(detections.models),
            )
            output: Detections | None = None
            if visits:
                output = msgspec.structs.replace(detections, visits=visits)
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
            visit(each, each.last or at, source, state.size, state.model)
            for each in windows.values()
        ]
        return LastVisits(tuple(visits)), WindowsState()

    def _windows_of(self, source: str, state: WindowsState) -> ObjectWindows:
        """Return the windows that a stored state names."""
        stored, live = self._live.get(source, (None, None))
        if live is not None and (stored is state or stored == state):
            return live
        data: bytes | None = None
        if state.windows is not None:
            data = self._plane(source).read(state.windows)
        if data is None:
            return {each.number: ObjectWindow(*each) for each in state.begun}
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
            shorts = [Beginning(each.number, each.label, each.began) for each in windows.values()]
            state = msgspec.structs.replace(state, windows=reference, begun=tuple(shorts))
        self._live[source] = state, windows
        return state

    def _plane(self, source: str) -> PlanePort:
        return self.context.plane(source, _PLANE_BYTES)


def step(
    windows: ObjectWindows,
    detections: Detections,
    before: Mark | None,
    now: Mark,
    sounds: Sequence[str] = (),
) -> ObjectWindows:
    """Return the windows after a frame; the same mapping if nothing changed.

    before  the frame before; None: there is none
    sounds  labels that were heard with this frame
    """
    there = {each.track: each for each in detections.objects if each.track is not None}
    shown = {each.track: each for each in detections.seen}
    changed: dict[int, ObjectWindow] = {}
    for number, detected in there.items():
        window = windows.get(number)
        if window is None:
            changed[number] = begun(detected, now)
        elif detected.origin != "carried" or window.last is not None:
            changed[number] = seen(window, detected, now)
        if number in shown and number in changed:
            changed[number] = looked(changed[number], shown[number])
        if sounds:
            window = changed.get(number) or windows[number]
            labels = tuple(dict.fromkeys((*window.sounds, *sounds)))[:MAX_SOUNDS]
            changed[number] = msgspec.structs.replace(window, sounds=labels)
    for number, window in windows.items():
        if window.last is None and number not in there:
            changed[number] = msgspec.structs.replace(window, last=before or window.began)
    if not changed:
        return windows
    return {**windows, **changed}


def ended(
    windows: ObjectWindows, now: Mark, source: str, size: tuple[int, int], model: str
) -> tuple[tuple[Visit, ...], ObjectWindows]:
    """Return the visits that have ended by this frame, and the windows that are left.

    size   width and height of the picture, pixels
    model  model that computed the features
    """
    over = {}
    for number, window in windows.items():
        if window.last is not None and now.ms - window.last.ms > END_S * 1000:
            over[number] = window.last
    excess = len(windows) - len(over) - MAX_WINDOWS
    if excess > 0:
        lasts = {number: window.last or now for number, window in windows.items()}
        rest = [number for number in sorted(lasts, key=lasts.__getitem__) if number not in over]
        over |= {number: lasts[number] for number in rest[:excess]}
    if not over:
        return (), windows
    visits = tuple(
        visit(windows[number], last, source, size, model) for number, last in over.items()
    )
    left = {number: window for number, window in windows.items() if number not in over}
    return visits, left


def _mark(item: Item, before: Mark | None) -> Mark:
    """Return the moment of a frame. Media time never decreases within an epoch."""
    record, position = item.record, item.position
    media_s = record.pts or 0.0
    if before is not None and before.epoch == position.epoch:
        if record.pts is None:
            media_s = before.media_s + _PERIOD_S
        media_s = max(media_s, before.media_s)
    return Mark(*position, round(media_s, 6), round(record.captured, 6))


def _heard(item: Item) -> tuple[str, ...]:
    """Return the labels of the sounds that ended with a frame."""
    sounds = sounds_with(item.record)
    if sounds is None:
        return ()
    return tuple(each.label for window in sounds.windows for each in window.labels)
