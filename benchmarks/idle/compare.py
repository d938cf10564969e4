"""Compare the results of a composed day with full and with lazy decoding."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from benchmarks.idle.day import FPS, Box, Event, Kind, Span
from framegate.models.boxes import iou
from framegate.models.matching import MIN_IOU
from framegate.pipeline.contracts.results import Result


@dataclass(frozen=True, slots=True)
class CameraDay:
    """What a run published of the day of a camera.

    results  by number of the frame in the day; frames that are missing were lost
    began    UNIX seconds at which frame 0 was taken
    """

    results: Mapping[int, Result]
    began: float

    @classmethod
    def of(cls, results: Iterable[Result], n_frames: int) -> CameraDay:
        """Take the first epoch of a camera that played the day from its start.

        ValueError without a result that has a time stamp.
        """
        epochs: dict[int, list[Result]] = {}
        for result in results:
            if result.pts is not None:
                epochs.setdefault(result.epoch, []).append(result)
        if not epochs:
            raise ValueError("no result has a time stamp")
        first = epochs[min(epochs)]
        # The median, because a time stamp of the camera's clock is as late as its report was sent.
        began = statistics.median(one.captured - (one.pts or 0.0) for one in first)
        numbered = {round((one.pts or 0.0) * FPS): one for one in first}
        day = {number: one for number, one in numbered.items() if number < n_frames}
        return cls(day, began)

    def undecoded(self) -> set[int]:
        """Return the numbers of the frames that were never decoded."""
        return {number for number, one in self.results.items() if one.reason == "undecoded"}

    def seen_after(self, event: Event) -> float | None:
        """Return the seconds from the start of an event to the publication of the first result that
        shows it; None if no result does.
        """
        starts = self.began + event.first / FPS
        for frame in range(event.first, event.end):
            result = self.results.get(frame)
            if result is None:
                continue
            if shows(result, event.box(frame, (result.width, result.height))):
                return result.published - starts
        return None


def shows(result: Result, place: Box) -> bool:
    """Return whether an object of a result is at a place, of whatever class."""
    if not result.objects:
        return False
    boxes = np.array([one.box for one in result.objects], np.float32)
    return bool((iou(boxes, np.array([place], np.float32)) >= MIN_IOU).any())


class Sample(NamedTuple):
    """CPU seconds of a whole run up to a moment in UNIX seconds."""

    at: float
    cpu_s: float


def core_share(samples: Sequence[Sample], spans: Sequence[Span]) -> float | None:
    """Return the mean share of a core that a run used in spans of UNIX seconds.

    Between two samples the CPU counts as evenly spent. None without a span of some length.
    """
    at = [sample.at for sample in samples]
    spent = [sample.cpu_s for sample in samples]
    real = [(start, end) for start, end in spans if end > start]
    if not real:
        return None
    used = sum(
        float(np.interp(end, at, spent) - np.interp(start, at, spent)) for start, end in real
    )
    return used / sum(end - start for start, end in real)


def common_spans(days: Sequence[CameraDay], spans: Sequence[Span]) -> list[Span]:
    """Return spans of the day in UNIX seconds: the part that all cameras have in common."""
    earliest = min(day.began for day in days)
    latest = max(day.began for day in days)
    return [(latest + start, earliest + end) for start, end in spans]


def share_undecoded(days: Sequence[CameraDay], spans: Sequence[Span]) -> float:
    """Return which share of the frames in spans of the day was never decoded."""
    frames = {
        number for start, end in spans for number in range(round(start * FPS), round(end * FPS))
    }
    total = sum(len(frames & day.results.keys()) for day in days)
    skipped = sum(len(frames & day.undecoded()) for day in days)
    return skipped / total if total else 0.0


class Packet(NamedTuple):
    """Size in bytes of a coded frame, and whether it is a key frame."""

    size: int
    is_key: bool


def most_held(packets: Sequence[Packet], undecoded: set[int]) -> int:
    """Return the bytes of the largest group of pictures that a camera kept undecoded.

    packets: of each frame of the day. A group ends before a key frame, and before a frame that was
    decoded.
    """
    most = held = 0
    for number, packet in enumerate(packets):
        is_next = packet.is_key or number not in undecoded
        held = 0 if is_next else held
        held += packet.size if number in undecoded else 0
        most = max(most, held)
    return most


class Outcome(NamedTuple):
    """An event in two runs: seconds to the first result that shows it, None if none does."""

    kind: Kind
    full_s: float | None
    lazy_s: float | None

    @property
    def is_missed(self) -> bool:
        """Return whether full decoding shows the event and lazy decoding does not."""
        return self.full_s is not None and self.lazy_s is None

    @property
    def added_s(self) -> float | None:
        """Return how much later lazy decoding shows it; None if one of them does not."""
        if self.full_s is None or self.lazy_s is None:
            return None
        return self.lazy_s - self.full_s


def outcomes(
    events: Sequence[Sequence[Event]], full: Sequence[CameraDay], lazy: Sequence[CameraDay]
) -> list[Outcome]:
    """Return what became of each event, camera by camera."""
    found = []
    for camera, its_events in enumerate(events):
        for event in its_events:
            times = full[camera].seen_after(event), lazy[camera].seen_after(event)
            found.append(Outcome(event.kind, *times))
    return found


def share_equal(
    events: Sequence[Sequence[Event]], full: Sequence[CameraDay], lazy: Sequence[CameraDay]
) -> float | None:
    """Return in which share of the decoded frames with an event both runs have equal objects.

    Equal are labels, scores and boxes, not the numbers of tracks. None if there is no such frame.
    """
    equal = total = 0
    for camera, its_events in enumerate(events):
        skipped = lazy[camera].undecoded()
        for event in its_events:
            for frame in range(event.first, event.end):
                both = full[camera].results.get(frame), lazy[camera].results.get(frame)
                if both[0] is None or both[1] is None or frame in skipped:
                    continue
                total += 1
                equal += _objects(both[0]) == _objects(both[1])
    return equal / total if total else None


def _objects(result: Result) -> set[tuple[str, float, Box]]:
    return {(one.label, one.score, one.box) for one in result.objects}
