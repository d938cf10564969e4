"""A cache of answers: a repeated input of a network gives the same boxes, bit for bit.

The key of an answer is a digest of the network's input and of all else that decides the boxes. The
value contains a second digest over input and boxes, which detects a collision of keys and a damaged
value. Lookups turn themselves off while hits are rare.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol

import numpy as np
import xxhash

from framegate.models.boxes import BOX_BYTES, Boxes
from framegate.models.detector.member import DetectorMember, KnownAnswer, Pending
from framegate.models.picture import NetworkInput

_MIN_SHARE: Final = 0.05  # share of hits from which lookups pay: a pass costs 20 to 60 lookups
_WINDOW: Final = 2048  # lookups after which the share is judged
_SAMPLE: Final = 16  # while off, one of this many inputs is looked up
_ENOUGH: Final = 8  # hits in the sample that turn all lookups on at once


@dataclass(frozen=True, slots=True)
class Worth:
    """The decision whether to look up all inputs or a sample. Immutable.

    on     all inputs are looked up, else a sample
    tried  lookups since the last decision
    hits   hits among these
    """

    on: bool = True
    tried: int = 0
    hits: int = 0

    def asks(self, digest: int) -> bool:
        """Return True if an input should be looked up.

        digest  digest of the input, so that a repeated input is in the sample again
        """
        return self.on or digest % _SAMPLE == 0

    def after(self, hit: bool) -> Worth:
        """Return the decision after one lookup."""
        tried = self.tried + 1
        hits = self.hits + hit
        window = _WINDOW
        if not self.on:
            window = _WINDOW // _SAMPLE
            if hits >= _ENOUGH:
                return Worth()
        if tried < window:
            return Worth(self.on, tried, hits)
        return Worth(hits >= _MIN_SHARE * tried)


# Increase it if decoding, suppression, the networks for a size or the layout of values change.
_VERSION: Final = 4
_SECOND: Final = 0x5EC0_11D5  # seed of the second digest
_CHECK: Final = 8  # bytes of the second digest
_ROW_STEP: Final = 32  # the quick digest covers one of this many rows
_GEOMETRY: Final = struct.Struct("<8i")


class AnswerMemory(Protocol):
    """A store of bytes by key, which may forget any entry at any time."""

    def find(self, key: bytes) -> bytes | None: ...
    def keep(self, key: bytes, value: bytes) -> None: ...


MAX_BYTES: Final = 64 << 20
_ENTRY_BYTES: Final = 300  # overhead of an entry, estimated


class RecentAnswers:
    """The most recently used answers of this process, at most `max_bytes`. One thread."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self.bytes = 0
        self._max_bytes = max_bytes
        self._values: OrderedDict[bytes, bytes] = OrderedDict()

    def find(self, key: bytes) -> bytes | None:
        """Return the value of a key; None if there is none."""
        value = self._values.get(key)
        if value is not None:
            self._values.move_to_end(key)
        return value

    def keep(self, key: bytes, value: bytes) -> None:
        """Keep a value; drop the least recently used values beyond the limit."""
        old = self._values.pop(key, None)
        if old is not None:
            self.bytes -= _size_of(key, old)
        self._values[key] = value
        self.bytes += _size_of(key, value)
        while self.bytes > self._max_bytes:
            self.bytes -= _size_of(*self._values.popitem(last=False))


def _size_of(key: bytes, value: bytes) -> int:
    return len(key) + len(value) + _ENTRY_BYTES


@dataclass(slots=True)
class RecallCounts:
    """Counts of inputs.

    hits     inputs with an answer
    misses   inputs without an answer
    refused  misses whose value failed the check
    skipped  inputs that were not looked up because hits are rare
    """

    hits: int = 0
    misses: int = 0
    refused: int = 0
    skipped: int = 0


class Recall:
    """The answer lookup of a source. One thread.

    Equal inputs that are in progress at the same time are computed once.
    """

    def __init__(self, memory: AnswerMemory) -> None:
        self.counts = RecallCounts()
        self.worth = Worth()
        self._memory = memory
        self._in_progress: set[bytes] = set()

    def ask(
        self, member: DetectorMember, prepared: NetworkInput
    ) -> Callable[[], Pending | KnownAnswer | Later]:
        """Look an input up; return a function that starts the network if there is no answer."""
        if not self.worth.on and not self.worth.asks(_quick_digest(prepared)):
            self.counts.skipped += 1
            return partial(member.start, prepared)
        key = key_of(member, prepared)
        if key in self._in_progress:
            return partial(Later, self, member, prepared)
        boxes = self._find(key, member, prepared)
        self.worth = self.worth.after(boxes is not None)
        if boxes is None:
            self.counts.misses += 1
            return partial(self._start, member, prepared, key)
        self.counts.hits += 1
        return partial(KnownAnswer, boxes)

    def _start(self, member: DetectorMember, prepared: NetworkInput, key: bytes) -> Pending:
        def learn(boxes: Boxes | None) -> None:
            self._in_progress.discard(key)
            if boxes is not None:
                self._memory.keep(key, value_of(prepared, boxes))

        pending = member.start(prepared, learn)
        self._in_progress.add(key)
        return pending

    def _find(self, key: bytes, member: DetectorMember, prepared: NetworkInput) -> Boxes | None:
        value = self._memory.find(key)
        if value is None:
            return None
        boxes = boxes_of(prepared, value, member.answers)
        if boxes is None:
            self.counts.refused += 1
        return boxes


@dataclass(frozen=True, slots=True, eq=False)
class Later:
    """An input whose equal is in progress. It is looked up after that is read."""

    recall: Recall
    member: DetectorMember
    prepared: NetworkInput

    def wait(self) -> None:
        """Return at once."""

    def finish(self) -> Boxes:
        """Look the answer up, or run the network; return the boxes."""
        return self.recall.ask(self.member, self.prepared)().finish()

    def discard(self) -> None:
        """Do nothing."""


def key_of(member: DetectorMember, prepared: NetworkInput) -> bytes:
    """Return the key of an input, 16 bytes: a digest of its pixels, its place and the member."""
    geometry = _GEOMETRY.pack(
        *prepared.bgr.shape[:2], *prepared.inner, *prepared.source, *prepared.offset
    )
    pixels = xxhash.xxh3_128_digest(_pixels(prepared))
    return xxhash.xxh3_128_digest(b"".join((bytes([_VERSION]), member.facts, geometry, pixels)))


def value_of(prepared: NetworkInput, boxes: Boxes) -> bytes:
    """Return boxes as bytes, with a check digest over input and boxes."""
    features = b""
    length = 0
    if boxes.features is not None:
        features = boxes.features.tobytes()
        length = boxes.features.shape[1]
    body = bytes([length]) + features + boxes.to_bytes()
    return _check(prepared, body) + body


def boxes_of(
    prepared: NetworkInput, value: bytes, classes: Collection[int] = range(256)
) -> Boxes | None:
    """Return the boxes of a value; None if it does not belong to this input or these classes."""
    check, body = value[:_CHECK], value[_CHECK:]
    if not body or check != _check(prepared, body):
        return None
    length = body[0]
    count = (len(body) - 1) // (length + BOX_BYTES)
    split = 1 + count * length
    boxes = Boxes.read(body[split:], classes)
    if boxes is None or not length or not count:
        return boxes
    features = np.frombuffer(body, np.int8, count * length, 1).reshape(count, length)
    return Boxes(boxes.xyxy, boxes.scores, boxes.class_ids, features)


def _check(prepared: NetworkInput, body: bytes) -> bytes:
    pixels = xxhash.xxh3_64_intdigest(_pixels(prepared), _SECOND)
    return xxhash.xxh3_64_digest(body, pixels)


def _quick_digest(prepared: NetworkInput) -> int:
    """Return a digest of a few rows, as reading all rows of each input would cost too much."""
    return xxhash.xxh3_64_intdigest(prepared.bgr[::_ROW_STEP].tobytes())


def _pixels(prepared: NetworkInput) -> memoryview:
    return np.ascontiguousarray(prepared.bgr).data
