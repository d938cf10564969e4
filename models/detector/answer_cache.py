"""Answers known before: the same input gives the same boxes, to the bit, where looking up pays.

An answer is kept under a digest of the network's input and of everything else that decides it. A
second digest inside the value, over input and boxes, vouches for it: should two inputs have one
key, or a value be damaged, it is no answer.
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

from framegate.models.boxes import Boxes
from framegate.models.detector.member import DetectorMember, KnownAnswer, Pending
from framegate.models.preprocess import NetworkInput

# -- Whether it is worth its cost to look answers up: switched off by itself while hits are rare.


_LEAST: Final = 0.05  # share of hits from which on it pays: a pass costs some 20 to 60 look-ups
_TRIED: Final = 2048  # look-ups over which that is judged
_SAMPLED: Final = 16  # while off, one in so many inputs is looked up
_ENOUGH: Final = 8  # hits among them that switch it on at once


@dataclass(frozen=True, slots=True)
class Worth:
    """Where it stands; pure.

    on           whether all inputs are looked up, or a sample of them
    tried, hits  since that was last judged
    """

    on: bool = True
    tried: int = 0
    hits: int = 0

    def asks(self, number: int) -> bool:
        """Return whether an input is to be looked up; while off that depends on its number.

        By a digest of the input, what comes again is in the sample again; by a count, not.
        """
        return self.on or number % _SAMPLED == 0

    def after(self, hit: bool) -> Worth:
        """Where it stands after one look-up."""
        tried, hits = self.tried + 1, self.hits + hit
        if not self.on and hits >= _ENOUGH:
            return Worth()
        if tried < (_TRIED if self.on else _TRIED // _SAMPLED):
            return Worth(self.on, tried, hits)
        return Worth(hits >= _LEAST * tried)


# Grows when decoding, suppression, the networks that answer for a size or the bytes below change.
_VERSION: Final = 3
_SECOND: Final = 0x5EC0_11D5  # seed of the second digest
_CHECK: Final = 8
_GLIMPSED: Final = 32  # a glimpse is one row in so many
_GEOMETRY: Final = struct.Struct("<8i")


class AnswerMemory(Protocol):
    """Bytes by key. It may forget anything at any time."""

    def find(self, key: bytes) -> bytes | None: ...
    def keep(self, key: bytes, value: bytes) -> None: ...


MOST_BYTES: Final = 64 << 20
_ENTRY_BYTES: Final = 300  # that an entry takes beside its key and value, roughly


class RecentAnswers:
    """The answers that this process used last, `most_bytes` at most. One thread."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self.bytes = 0
        self._most = most_bytes
        self._values: OrderedDict[bytes, bytes] = OrderedDict()

    def find(self, key: bytes) -> bytes | None:
        """Return the value of a key; None if it was never kept, or dropped since."""
        value = self._values.get(key)
        if value is not None:
            self._values.move_to_end(key)
        return value

    def keep(self, key: bytes, value: bytes) -> None:
        """Keep a value; drop those that were not used for the longest time."""
        old = self._values.pop(key, None)
        if old is not None:
            self.bytes -= _size_of(key, old)
        self._values[key] = value
        self.bytes += _size_of(key, value)
        while self.bytes > self._most:
            self.bytes -= _size_of(*self._values.popitem(last=False))


def _size_of(key: bytes, value: bytes) -> int:
    return len(key) + len(value) + _ENTRY_BYTES


@dataclass(slots=True)
class RecallCounts:
    """What came of all inputs so far.

    hits, misses  looked up and found, or not
    refused       of the misses: found, but it was no answer to this input
    skipped       not looked up, as hits are rare
    """

    hits: int = 0
    misses: int = 0
    refused: int = 0
    skipped: int = 0


class Recall:
    """Answers of networks in one memory. One thread.

    Inputs that are equal and under way at once go through the network once.
    """

    def __init__(self, memory: AnswerMemory) -> None:
        self.counts = RecallCounts()
        self.worth = Worth()
        self._memory = memory
        self._under_way: set[bytes] = set()

    def ask(
        self, member: DetectorMember, prepared: NetworkInput
    ) -> Callable[[], Pending | KnownAnswer | Later]:
        """Looks an input up; what it gives starts the network on it, if need be."""
        if not self.worth.on and not self.worth.asks(_glimpse(prepared)):
            self.counts.skipped += 1
            return partial(member.start, prepared)
        key = key_of(member, prepared)
        if key in self._under_way:
            return lambda: Later(self, member, prepared)
        found = self._find(key, member, prepared)
        self.worth = self.worth.after(found is not None)
        if found is None:
            self.counts.misses += 1
            return partial(self._start, member, prepared, key)
        self.counts.hits += 1
        return lambda: KnownAnswer(found)

    def _start(self, member: DetectorMember, prepared: NetworkInput, key: bytes) -> Pending:
        def learn(boxes: Boxes | None) -> None:
            self._under_way.discard(key)
            if boxes is not None:
                self._memory.keep(key, value_of(prepared, boxes))

        pending = member.start(prepared, learn)
        self._under_way.add(key)
        return pending

    def _find(self, key: bytes, member: DetectorMember, prepared: NetworkInput) -> Boxes | None:
        value = self._memory.find(key)
        if value is None:
            return None
        boxes = boxes_of(prepared, value, member.answers)
        self.counts.refused += boxes is None
        return boxes


@dataclass(frozen=True, slots=True, eq=False)
class Later:
    """An input whose equal is under way: looked up once that is read."""

    recall: Recall
    member: DetectorMember
    prepared: NetworkInput

    def wait(self) -> None:
        """Returns at once."""

    def finish(self) -> Boxes:
        """Look the answer up, or run the network; return the boxes."""
        return self.recall.ask(self.member, self.prepared)().finish()

    def discard(self) -> None:
        """Nothing is under way for it."""


def key_of(member: DetectorMember, prepared: NetworkInput) -> bytes:
    """16 bytes: what the network sees, where in the picture that is, and what it is asked."""
    geometry = _GEOMETRY.pack(
        *prepared.bgr.shape[:2], *prepared.inner, *prepared.source, *prepared.offset
    )
    pixels = xxhash.xxh3_128_digest(_pixels(prepared))
    return xxhash.xxh3_128_digest(b"".join((bytes([_VERSION]), member.facts, geometry, pixels)))


def value_of(prepared: NetworkInput, boxes: Boxes) -> bytes:
    """Boxes as bytes, with what vouches for them."""
    body = boxes.to_bytes()
    return _check(prepared, body) + body


def boxes_of(
    prepared: NetworkInput, value: bytes, classes: Collection[int] = range(256)
) -> Boxes | None:
    """The boxes in a value; None if it is no answer to this input, or not of these classes."""
    check, body = value[:_CHECK], value[_CHECK:]
    return Boxes.read(body, classes) if check == _check(prepared, body) else None


def _check(prepared: NetworkInput, body: bytes) -> bytes:
    pixels = xxhash.xxh3_64_intdigest(_pixels(prepared), _SECOND)
    return xxhash.xxh3_64_digest(body, pixels)


def _glimpse(prepared: NetworkInput) -> int:
    """A digest of a few rows: while it is off, most inputs are not worth reading whole."""
    return xxhash.xxh3_64_intdigest(prepared.bgr[::_GLIMPSED].tobytes())


def _pixels(prepared: NetworkInput) -> memoryview:
    return np.ascontiguousarray(prepared.bgr).data
