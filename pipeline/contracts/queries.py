"""A query to a heavier model about a frame, its reply, and the `Place` that answers it.

Below them are the counts that a stage keeps in its worker's memory: of queries, cache look-ups and
footage.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple, Protocol, runtime_checkable

import msgspec
import xxhash

from framegate.pipeline.contracts.errors import FramegateError
from framegate.pipeline.contracts.records import Position
from framegate.pipeline.contracts.results import DegradedReason
from framegate.pipeline.contracts.source import Form

Region = tuple[int, int, int, int]


class QueryId(NamedTuple):
    """Which frame, and which part of it.

    part   left, top, right, bottom in source pixels; None: the whole
    exact  whether the model must see these very pixels, however far away: a JPEG will not do
    """

    source: str
    position: Position
    part: Region | None = None
    exact: bool = False


@dataclass(frozen=True)
class Query:
    """A frame for a heavier model to look at.

    pixels    the whole frame's, planar YUV 4:2:0 of `form`, a copy
    due_mono  when a reply is of no use any more, by the monotonic clock; None: it is waited for
    urgent    whether it goes before those that are not
    """

    id: QueryId
    form: Form
    pixels: bytes
    due_mono: float | None = None
    urgent: bool = True

    @functools.cached_property
    def content(self) -> bytes:
        """16 bytes, equal for queries that have equal replies: pixels, form, part, exactness."""
        form = self.form
        digest = xxhash.xxh3_128(self.pixels)
        facts = form.width, form.height, form.matrix, form.full_range, self.id.part, self.id.exact
        digest.update(repr(facts).encode())
        return digest.digest()


class Predictions(msgspec.Struct, frozen=True, array_like=True):
    """What a heavier model found, highest score first; one row an object in the first three.

    boxes   left, top, right, bottom in source pixels
    scores  0..1
    models  NAME@SHA8 of all that made this
    """

    boxes: tuple[tuple[float, float, float, float], ...]
    scores: tuple[float, ...]
    class_ids: tuple[int, ...]
    models: tuple[str, ...]


class Unanswered(NamedTuple):
    """There are no predictions, for this reason."""

    reason: DegradedReason


Reply = Predictions | Unanswered
EncodeQuery = Callable[[Query], bytes]
"""Codes a query's picture, or the part that is asked about, for a place far away. Any thread."""

MOST_SEEN: Final = 1000  # objects in a reply
_MOST_MODELS: Final = 16


class PlaceFailed(FramegateError):
    """A place could not answer: it is away, slow, full, or of another version."""


def checked(seen: Predictions, form: Form) -> Predictions:
    """Return predictions that came from far, about a frame of this form, if they can be any.

    PlaceFailed unless boxes lie in the picture but for a pixel, scores are 0..1, and rows and
    names of models are few.
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
    """Where queries get replies: in this process, from workers, from a server.

    lanes       calls of `answer` that may be under way at once, each in a thread of its own
    most        queries that one call may have
    sent_bytes  of pictures that went over a wire since it was opened
    wire_s      seconds for which calls were on the way, there and back, summed
    """

    lanes: int
    most: int

    @property
    def sent_bytes(self) -> int: ...
    @property
    def wire_s(self) -> float: ...
    def answer(self, questions: Sequence[Query]) -> Sequence[Reply]:
        """Return one reply a query, in their order. Waits.

        Unanswered is the reply to a query that it would be in vain to repeat: its picture is
        damaged, it kills whatever looks at it. PlaceFailed if the place cannot be asked now.
        """
        ...

    def close(self) -> None:
        """Let go of what the place holds; calls that are under way fail."""
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
    encode: EncodeQuery
    policy_id: str
    class_ids: frozenset[int]
    precision: str = ""
    url: str | None = field(default=None, repr=False)


PlaceSpec = RemotePlace | Callable[[], Place]
"""A place that is still to be opened: elsewhere, or in this process by calling it."""


@runtime_checkable
class Attended(Protocol):
    """A place that needs somebody else, and can tell whether they are there."""

    def absent(self) -> str | None:
        """Return why nobody would answer now, and what to do about it; None: somebody would."""
        ...


def absent(place: Place) -> str | None:
    """Return the same of any place; None where it needs nobody else."""
    return place.absent() if isinstance(place, Attended) else None


@runtime_checkable
class Left(Protocol):
    """A place that holds something for each thread that calls `answer`."""

    def leave(self) -> None:
        """Let go of what is held for the calling thread. Also after `close`."""
        ...


def leave(place: Place) -> None:
    """Tell any place that this thread calls it no more."""
    if isinstance(place, Left):
        place.leave()


BreakerState = Literal["closed", "open", "half_open"]


class AskCounts(msgspec.Struct):
    """What became of a stage's queries since its worker began.

    answered, joined    with predictions, each content once; queries that shared those of another
    degraded            without, by reason
    sent_bytes, wire_s  of the place
    waited_s            seconds from query to reply, summed over `answered`
    breaker             of the place
    left                asks that each source's budget has left, at its last frame
    """

    answered: int = 0
    joined: int = 0
    degraded: dict[str, int] = {}
    sent_bytes: int = 0
    wire_s: float = 0.0
    waited_s: float = 0.0
    breaker: BreakerState = "closed"
    left: dict[str, float] = {}

    def plus(self, later: AskCounts | None) -> AskCounts:
        """Return both together, with the later one's breaker and budgets."""
        if later is None:
            return self
        return AskCounts(
            self.answered + later.answered,
            self.joined + later.joined,
            _sums(self.degraded, later.degraded),
            self.sent_bytes + later.sent_bytes,
            self.wire_s + later.wire_s,
            self.waited_s + later.waited_s,
            later.breaker,
            later.left,
        )


class CacheCounts(msgspec.Struct):
    """Counts of a stage's looked up answers since its worker began, over all sources.

    hits, misses  inputs that were answered, or not, by what an equal one was answered
    refused       of the misses, those where what was found was no answer to them
    skipped       inputs that were not looked up, as hits are rare
    sources, off  sources that look up, and those of them that look up a sample only
    """

    hits: int = 0
    misses: int = 0
    refused: int = 0
    skipped: int = 0
    sources: int = 0
    off: int = 0

    def plus(self, later: CacheCounts | None) -> CacheCounts:
        """Return both together, with the later one's sources."""
        if later is None:
            return self
        counted = ("hits", "misses", "refused", "skipped")
        sums = {name: getattr(self, name) + getattr(later, name) for name in counted}
        return msgspec.structs.replace(later, **sums)


class FootageCounts(msgspec.Struct):
    """What became of frames that were due to be kept as footage, since the stage's worker began.

    kept     by why. even: evenly spaced. audit: drawn for the promise. heavy: the heavy pass was
             asked. doubt: it should have been. change: another scene began
    dropped  by reason. same: nothing moved since the last one. lost: their pixels were gone.
             unwritable: the disk did not take them
    removed  frames that went as they were too old, or too much
    nbytes   of all that is kept now
    """

    kept: dict[str, int] = {}
    dropped: dict[str, int] = {}
    removed: int = 0
    nbytes: int = 0

    def plus(self, later: FootageCounts | None) -> FootageCounts:
        """Return both together, with the later one's bytes."""
        if later is None:
            return self
        return FootageCounts(
            _sums(self.kept, later.kept),
            _sums(self.dropped, later.dropped),
            self.removed + later.removed,
            later.nbytes,
        )


def _sums(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    return {key: one.get(key, 0) + other.get(key, 0) for key in sorted({*one, *other})}
