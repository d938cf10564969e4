"""Read the newest published frames with their pixels, from the store and from shared memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from framegate.pipeline.contracts import keys, records
from framegate.pipeline.contracts.errors import FrameLost, FrameStoreFull
from framegate.pipeline.contracts.records import START, DecodeState, Position
from framegate.pipeline.contracts.results import GateView, Result
from framegate.pipeline.contracts.source import Form
from framegate.pipeline.engine.control_line import ControlLine
from framegate.pipeline.engine.shared_views import SharedViews
from framegate.pipeline.shared_memory.frame_store import FrameStore
from framegate.pipeline.store.hop import FRAME
from framegate.pipeline.store.redis_client import connect, store_errors
from framegate.pipeline.telemetry.run_status import SourceStatus

RECENT: Final = 8  # entries to read: the newest may be an end, or a frame whose pixels are lost
# A request for a picture wakes a source that is decoded lazily for so long: until its decoder has
# seen it, which looks once a second. Viewers of a stream ask several times a second.
WANTED_S: Final = 2.0
TRIES: Final = 3  # the pipeline may overwrite a frame while it is being read

_FRAME: Final = FRAME.encode()

GetFrameStore = Callable[[str, Form], FrameStore]


@dataclass(frozen=True, slots=True)
class LastFrame:
    """A published frame: its result, and a copy of its own pixels (see source.Frame).

    before  views of the gate in the frames before, newest first; frames without a view are left out
    """

    result: Result
    form: Form
    pixels: bytes
    before: tuple[GateView, ...] = ()


class LastFrames:
    """A reader of results and pixels. Any thread; it connects at the first call."""

    def __init__(self, url: str, frame_store: GetFrameStore) -> None:
        """frame_store: returns the store of a source and form; FrameLost if there is none."""
        self._client = connect(url)
        self._url = url
        self._frame_store = frame_store
        self._forms: dict[str, tuple[int, Form]] = {}

    def newest(self, source: str, seen: Position = START) -> LastFrame | None:
        """Return the newest published frame after `seen` whose pixels are not lost.

        None if there is no frame after `seen`. FrameLost if the pixels of all of them are lost;
        StoreLost, StoreBusy.
        """
        lost = None
        for _ in range(TRIES):
            results = self.results(source)
            for index, result in enumerate(results):
                if result.position == seen:
                    return None
                try:
                    frame = self._frame(source, result)
                    return replace(frame, before=_views(results[index + 1 :]))
                except FrameLost as error:
                    lost = error
            if lost is None:
                return None
        raise FrameLost(f"source {source}: the pixels of its last frames are gone: {lost}")

    def last_map(self, source: str) -> tuple[Result, LastFrame | None] | None:
        """Return the newest result with a sensitivity map, and its frame.

        The frame is None if its pixels are lost. None if none of the last results has a map.
        StoreLost, StoreBusy.
        """
        for result in self.results(source):
            if result.gate is not None and result.gate.sensitivity:
                try:
                    return result, self._frame(source, result)
                except FrameLost:
                    return result, None
        return None

    def results(self, source: str, count: int = RECENT) -> list[Result]:
        """Return the last results, newest first. StoreLost, StoreBusy."""
        with store_errors(self._url):
            entries = self._client.xrevrange(keys.results(source), count=count)
        return [records.decode_versioned(f[b"d"], Result) for _, f in entries if _is_frame(f)]

    def _frame(self, source: str, result: Result) -> LastFrame:
        form = self._form(source, result.epoch)
        store = self._frame_store(source, form)
        store.want(time.monotonic() + WANTED_S)
        with store.finding(result.position) as pixels:
            copy = bytes(pixels)
        return LastFrame(result, form, copy)

    def _form(self, source: str, epoch: int) -> Form:
        """Return the form of the pixels of an epoch. It does not change within an epoch."""
        known = self._forms.get(source)
        if known is not None and known[0] == epoch:
            return known[1]
        form = self._newest_form(source, epoch) or self._form_of_entry(source, epoch)
        if form is None:
            raise FrameLost(f"nothing is left of epoch {epoch}", final=True)
        self._forms[source] = (epoch, form)
        return form

    def _newest_form(self, source: str, epoch: int) -> Form | None:
        """Return the form that the decoder stored with its last frame, if that is of this epoch."""
        with store_errors(self._url):
            at, state = self._client.hmget(keys.at(source, "decode"), "p", "s")
        if not at or not state or Position.parse(at).epoch != epoch:
            return None
        return records.decode(state, DecodeState).form

    def _form_of_entry(self, source: str, epoch: int) -> Form | None:
        """Return the form in an entry of the decoder: results may be of an epoch before."""
        with store_errors(self._url):
            stream = keys.out(source, "decode")
            entries = self._client.xrevrange(stream, str(epoch), str(epoch), count=2)
        for _, fields in entries:  # an epoch's last entry is its end, the one before a frame
            if _is_frame(fields):
                return records.decode_record(fields[b"d"]).form
        return None

    def close(self) -> None:
        """Close the connection."""
        self._client.close()


def _views(results: list[Result]) -> tuple[GateView, ...]:
    return tuple(result.gate for result in results if result.gate is not None)


def _is_frame(fields: dict[bytes, Any]) -> bool:
    return bool(fields[b"k"] == _FRAME)


# -- Frame stores of other processes.


class FrameViews:
    """The frame stores of the run's sources, to read from. It makes none. Any thread."""

    def __init__(self, line: ControlLine) -> None:
        self._views = SharedViews([], line)

    def take_sources(self, sources: Sequence[SourceStatus]) -> None:
        """Replace the list of the run's sources."""
        self._views.take_sources(sources)

    def frame_store(self, source: str, form: Form) -> FrameStore:
        """Return the frame store of a source. FrameLost if there is none of this form."""
        try:
            return self._views.frame_store(source, form, make=False)
        except (KeyError, FrameStoreFull) as error:
            raise FrameLost(f"source {source}: it has no frame store", final=True) from error
