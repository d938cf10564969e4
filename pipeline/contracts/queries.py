"""Queries to a heavier model about a frame, their replies, and the `Place` that answers them.

The second part are counters that a stage keeps in the memory of its worker: of queries, cache
look-ups and footage.
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
    """The frame of a query, and the part of it.

    part   left, top, right, bottom in source pixels; None: the whole frame
    exact  whether the model needs the exact pixels, so that no lossy encoding is allowed
    """

    source: str
    position: Position
    part: Region | None = None
    exact: bool = False


@dataclass(frozen=True)
class Query:
    """A query to a heavier model about a frame.

    pixels    copy of the whole frame, planar YUV 4:2:0 of `form`
    due_mono  monotonic time after which a reply is useless; None: the reply is needed at any time
    urgent    whether it is sent before queries that are not urgent
    """

    id: QueryId
    form: Form
    pixels: bytes
    due_mono: float | None = None
    urgent: bool = True

    @functools.cached_property
    def content(self) -> bytes:
        """Return a digest of 16 bytes, equal for queries with equal pixels, form, part and exact.

        Such queries have equal replies.
        """
        form = self.form
        parameters = (
            form.width,
            form.height,
            form.matrix,
            form.full_range,
            self.id.part,
            self.id.exact,
        )
        digest = xxhash.xxh3_128(self.pixels)
        digest.update(repr(parameters).encode())
        return digest.digest()


class Predictions(msgspec.Struct, frozen=True, array_like=True):
    """The objects that a heavier model detected, highest score first.

    boxes      left, top, right, bottom in source pixels, one row per object
    scores     0 to 1, one per object
    class_ids  one per object
    models     NAME@SHA8 of all models that took part
    """

    boxes: tuple[tuple[float, float, float, float], ...]
    scores: tuple[float, ...]
    class_ids: tuple[int, ...]
    models: tuple[str, ...]


class Unanswered(NamedTuple):
    """A reply without predictions, and its reason."""

    reason: DegradedReason


Reply = Predictions | Unanswered
EncodeQuery = Callable[[Query], bytes]
"""A function that encodes the picture of a query, or its part, for a remote place. Any thread."""

MOST_SEEN: Final = 1000  # objects in a reply
_MAX_MODELS: Final = 16
_MAX_MODEL_NAME: Final = 200


class PlaceFailed(FramegateError):
    """A place could not answer: it is away, slow, full, or of another version."""


def checked(predictions: Predictions, form: Form) -> Predictions:
    """Return the predictions of a remote place about a frame of this form, if they are valid.

    PlaceFailed unless there are as many boxes as scores and class ids, boxes are at most a pixel
    outside the picture, scores are 0 to 1, and there are few models with short names.
    """
    lengths = {
        len(predictions.boxes),
        len(predictions.scores),
        len(predictions.class_ids),
    }
    if len(lengths) > 1 or max(lengths) > MOST_SEEN:
        raise PlaceFailed(
            f"invalid answer: {sorted(lengths)} boxes, scores and class ids; their numbers must be "
            f"equal and at most {MOST_SEEN}"
        )
    for left, top, right, bottom in predictions.boxes:
        fits_across = -1 <= left <= right <= form.width + 1
        fits_down = -1 <= top <= bottom <= form.height + 1
        if not (fits_across and fits_down):
            raise PlaceFailed(
                f"invalid answer: box ({left:g}, {top:g}, {right:g}, {bottom:g}) in a picture of "
                f"{form.width}x{form.height} pixels"
            )
    # Scores may be rounded up. A NaN fails the comparison.
    if not all(0 <= score <= 1 + 1e-6 for score in predictions.scores):
        raise PlaceFailed("invalid answer: a score is not from 0 to 1")
    names = predictions.models
    are_names = all(name.isprintable() and len(name) <= _MAX_MODEL_NAME for name in names)
    if len(names) > _MAX_MODELS or not are_names:
        raise PlaceFailed(
            f"invalid answer: {len(names)} models; at most {_MAX_MODELS} are allowed, with "
            f"printable names of at most {_MAX_MODEL_NAME} characters"
        )
    return predictions


class Place(Protocol):
    """A service that answers queries: in this process, in workers, or a server.

    lanes       number of calls of `answer` that may run at once, each in a thread of its own
    most        largest number of queries in a call
    sent_bytes  bytes of pictures that were sent over a network since it was opened
    wire_s      seconds that calls spent on the network, both ways, summed
    """

    lanes: int
    most: int

    @property
    def sent_bytes(self) -> int: ...
    @property
    def wire_s(self) -> float: ...
    def answer(self, questions: Sequence[Query]) -> Sequence[Reply]:
        """Return a reply for each query, in their order. Blocks.

        The reply is Unanswered if the same query would fail again: its picture is damaged, or it
        kills the process that runs the model. PlaceFailed if the place cannot answer now.
        """
        ...

    def close(self) -> None:
        """Release all resources; calls that are running fail."""
        ...


@dataclass(frozen=True)
class RemotePlace:
    """The description of a place on another host; the worker opens it.

    protocol   workers: processes of `framegate worker --heavy`, through a Redis. kserve: a server
               with the protocol KServe v2
    encode     encodes the picture of a query
    policy_id  digest of everything that decides an answer; workers with another digest are refused
    class_ids  requested classes; objects of other classes are left out of the answers
    precision  precision of the model, for messages about workers with another one
    url        URL of that Redis or server; None: the run's own store
    """

    protocol: Literal["workers", "kserve"]
    encode: EncodeQuery
    policy_id: str
    class_ids: frozenset[int]
    precision: str = ""
    url: str | None = field(default=None, repr=False)


PlaceSpec = RemotePlace | Callable[[], Place]
"""A place to open: a description of a remote one, or a function that returns a local one."""


@runtime_checkable
class Attended(Protocol):
    """A place that depends on other processes and knows if they are alive."""

    def absent(self) -> str | None:
        """Return why no process would answer now, and a remedy; None if one would."""
        ...


def absent(place: Place) -> str | None:
    """Return `place.absent()`; None for a place that depends on no other process."""
    if not isinstance(place, Attended):
        return None
    return place.absent()


@runtime_checkable
class Left(Protocol):
    """A place with resources for each thread that calls `answer`."""

    def leave(self) -> None:
        """Release the resources of the calling thread. Allowed after `close`."""
        ...


def leave(place: Place) -> None:
    """Release the resources that a place has for the calling thread, if any."""
    if isinstance(place, Left):
        place.leave()


BreakerState = Literal["closed", "open", "half_open"]


class AskCounts(msgspec.Struct):
    """Counts of a stage's queries since its worker began.

    answered    queries with predictions, without those in `joined`
    joined      queries that shared the predictions of another query with the same content
    degraded    queries without predictions, by reason
    sent_bytes  see Place
    wire_s      see Place
    waited_s    seconds from query to reply, summed over `answered`
    breaker     state of the place's circuit breaker
    left        queries that the budget of each source has left, at its last frame
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
        """Return the sums of both, with the breaker and budgets of `later`."""
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
    """Counts of a stage's look-ups in a cache since its worker began, over all sources.

    hits     inputs that were answered from the cache
    misses   inputs that were looked up and not answered from the cache
    refused  misses with an entry that did not fit the input
    skipped  inputs that were not looked up, because hits are rare
    sources  sources that use the cache
    off      sources of these that look up a sample only
    """

    hits: int = 0
    misses: int = 0
    refused: int = 0
    skipped: int = 0
    sources: int = 0
    off: int = 0

    def plus(self, later: CacheCounts | None) -> CacheCounts:
        """Return the sums of both, with the sources of `later`."""
        if later is None:
            return self
        counted = ("hits", "misses", "refused", "skipped")
        sums = {name: getattr(self, name) + getattr(later, name) for name in counted}
        return msgspec.structs.replace(later, **sums)


class FootageCounts(msgspec.Struct):
    """Counts of the frames that were due to be kept as footage, since the stage's worker began.

    kept     kept frames, by reason. even: evenly spaced. audit: drawn for the promise. heavy: the
             heavy model was queried. doubt: it should have been queried. change: a new scene began
    dropped  dropped frames, by reason. same: nothing moved since the last one. lost: the pixels
             were gone. unwritable: the disk could not be written
    removed  frames that were removed because of their age or the limit of size
    nbytes   bytes of all frames that are kept now
    """

    kept: dict[str, int] = {}
    dropped: dict[str, int] = {}
    removed: int = 0
    nbytes: int = 0

    def plus(self, later: FootageCounts | None) -> FootageCounts:
        """Return the sums of both, with the bytes of `later`."""
        if later is None:
            return self
        return FootageCounts(
            _sums(self.kept, later.kept),
            _sums(self.dropped, later.dropped),
            self.removed + later.removed,
            later.nbytes,
        )


def _sums(earlier: Mapping[str, int], later: Mapping[str, int]) -> dict[str, int]:
    return {key: earlier.get(key, 0) + later.get(key, 0) for key in sorted({*earlier, *later})}
