"""What is asked of a heavier model about a frame, and what comes back."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple, Protocol, runtime_checkable

import msgspec
import xxhash

from framegate.pipeline.errors import FramegateError
from framegate.pipeline.records import DegradedReason, Position
from framegate.pipeline.source import Form

Region = tuple[int, int, int, int]


class QueryId(NamedTuple):
    """Which frame, and which part of it.

    part   x1, y1, x2, y2 in source pixels; None: the whole
    exact  the model must see these very pixels, whatever lies between
    """

    source: str
    position: Position
    part: Region | None = None
    exact: bool = False


@dataclass(frozen=True)
class Query:
    """A frame's pixels for a heavier model to look at.

    pixels    the whole frame's, planar YUV 4:2:0 of `form`, a copy
    due_mono  when an answer is of no use any more, by the monotonic clock; None: it is waited for
    urgent    goes before those that are not
    """

    id: QueryId
    form: Form
    pixels: bytes
    due_mono: float | None = None
    urgent: bool = True

    @functools.cached_property
    def content(self) -> bytes:
        """16 bytes, equal for questions that have equal answers."""
        form = self.form
        digest = xxhash.xxh3_128(self.pixels)
        facts = form.width, form.height, form.matrix, form.full_range, self.id.part, self.id.exact
        digest.update(repr(facts).encode())
        return digest.digest()


class Predictions(msgspec.Struct, frozen=True, array_like=True):
    """What a heavier model found, in source pixels, highest score first; rows of equal number."""

    boxes: tuple[tuple[float, float, float, float], ...]
    scores: tuple[float, ...]
    class_ids: tuple[int, ...]
    models: tuple[str, ...]


class Unanswered(NamedTuple):
    """No answer, and why."""

    reason: DegradedReason


Reply = Predictions | Unanswered
Encode = Callable[[Query], bytes]
"""Codes the picture that a query shows, or the part of it, for the way to a place far away."""

MOST_SEEN: Final = 1000  # objects in an answer
_MOST_MODELS: Final = 16


class PlaceFailed(FramegateError):
    """A place could not answer: it is away, slow, full, or of another version."""


def checked(seen: Predictions, form: Form) -> Predictions:
    """An answer that came from far about a frame of this form. PlaceFailed where it can be none.

    Boxes lie in the picture but for a pixel, scores are 0..1; rows and models are bounded.
    """
    rows = {len(seen.boxes), len(seen.scores), len(seen.class_ids)}
    if len(rows) > 1 or max(rows) > MOST_SEEN:
        raise PlaceFailed(
            f"an answer of {sorted(rows)} rows; allowed is one number, to {MOST_SEEN}"
        )
    for left, top, right, bottom in seen.boxes:
        if not (-1 <= left <= right <= form.width + 1 and -1 <= top <= bottom <= form.height + 1):
            said = f"({left:g}, {top:g}, {right:g}, {bottom:g})"
            raise PlaceFailed(f"an answer with a box {said} in {form.width}x{form.height} pixels")
    if not all(0 <= score <= 1 + 1e-6 for score in seen.scores):  # rounded; NaN is none of these
        raise PlaceFailed("an answer with a score that is not from 0 to 1")
    names = seen.models
    if len(names) > _MOST_MODELS or not all(n.isprintable() and len(n) <= 200 for n in names):
        raise PlaceFailed(f"an answer of {len(names)} models, or of names that are none")
    return seen


class Place(Protocol):
    """Where questions are answered: in this process, by workers, by a server.

    lanes       calls of `answer` that may be under way at once, each in a thread of its own
    most        questions that one call may have
    sent_bytes  of pictures that went over a wire since it began
    wire_s      for which calls were on the way there and back, summed, looking not counted
    """

    lanes: int
    most: int

    @property
    def sent_bytes(self) -> int: ...
    @property
    def wire_s(self) -> float: ...
    def answer(self, questions: Sequence[Query]) -> Sequence[Reply]:
        """Look, and wait for what is found: one answer a question, in their order.

        Unanswered is for a question that this place cannot answer whoever asks again (its picture
        is damaged, it killed who looked at it); PlaceFailed if the place cannot be asked now.
        """
        ...

    def close(self) -> None:
        """Let go of what it holds; calls that are under way fail."""
        ...


@dataclass(frozen=True)
class RemotePlace:
    """A place on another host, described: the worker opens it.

    protocol   workers: those of `framegate worker --heavy`, by way of a Redis; kserve: a server
               that speaks KServe v2
    encode     how a query's picture travels
    policy_id  hash of what must decide the answers: others are refused
    class_ids  that are asked for: what else is found is left out of the answers
    precision  of that policy, for what is told where workers have another
    url        of that Redis, or of that server; None: the run's own store
    """

    protocol: Literal["workers", "kserve"]
    encode: Encode
    policy_id: str
    class_ids: frozenset[int]
    precision: str = ""
    url: str | None = field(default=None, repr=False)


PlaceSpec = RemotePlace | Callable[[], Place]
"""A place that is still to be opened: elsewhere, or in this process by calling it."""


@runtime_checkable
class Attended(Protocol):
    """A place where somebody may be missing, and that can tell."""

    def absent(self) -> str | None:
        """Why nobody would answer now, and what to do about it; None: somebody is there."""
        ...


def absent(place: Place) -> str | None:
    """What the place tells of that; None where it tells nothing."""
    return place.absent() if isinstance(place, Attended) else None


@runtime_checkable
class Left(Protocol):
    """A place that holds something for each thread that calls `answer`."""

    def leave(self) -> None:
        """This thread calls it no more: let go of what is held for it. Also after `close`."""
        ...


def leave(place: Place) -> None:
    """Tell the place, if it wants to know, that this thread calls it no more."""
    if isinstance(place, Left):
        place.leave()
