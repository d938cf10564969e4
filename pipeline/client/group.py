"""Follows published streams in a consumer group: each result goes to one consumer, at least once.

Does no I/O, like follower.py. A result that a consumer got and did not acknowledge stays its own;
once it has lain there for too long, another consumer of the group takes it.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import redis

from framegate.pipeline.client.follower import (
    BLOCK_MS,
    COUNT,
    RESULTS,
    Ask,
    Channel,
    Given,
    Roster,
    Start,
    Steps,
    fields_of,
    following,
    read_entry,
    sound,
)
from framegate.pipeline.contracts.errors import ResultsTrimmed
from framegate.pipeline.contracts.records import START, End, Position
from framegate.pipeline.store.connection import Command


@dataclass(frozen=True)
class Consumer:
    """A consumer of a group.

    claim_after_s  for which a result may lie with another consumer before this one takes it
    """

    group: str
    consumer: str
    claim_after_s: float


class GroupFollower:
    """Follows as one consumer of a group. Results that it got stay with it until `ack`.

    ready  what came and was not taken yet; kept when a round is broken off
    """

    finished = False

    def __init__(
        self,
        sources: Sequence[str] | None,
        start: Start,
        member: Consumer,
        channel: Channel[Any] = RESULTS,
    ) -> None:
        self._roster = Roster(sources)
        self._channel, self._stream = channel, channel.stream
        self._start = start
        self._member = member
        self._seen: dict[str, Position] = {}
        self._held: set[tuple[str, Position]] = set()
        self._owed: list[Command] = []
        self._recovering: dict[str, str] = {}
        self._joined_once = False
        self._claim_due_mono = 0.0
        self.ready: deque[Given] = deque()
        self.ends: dict[str, End] = {}

    def interrupted(self) -> None:
        """A round was broken off: results whose reply was lost are pending, and asked for again."""
        self._recovering = dict.fromkeys(self._seen, "0-0")

    def ack(self, source: str, position: Position) -> Command:
        """Return the command that acknowledges a result."""
        self._held.discard((source, position))
        return self._ack(source, str(position))

    def _ack(self, source: str, *positions: str) -> Command:
        return ("XACK", self._stream(source), self._member.group, *positions)

    def steps(self) -> Steps:
        """One round: own pending results first, then stale ones of others, then new ones."""
        yield from self._roster.steps()
        yield from self._join()
        if self._owed:
            owed, self._owed = self._owed, []
            yield Ask(owed)
        for source in list(self._recovering):
            yield from self._recover(source)
        if time.monotonic() >= self._claim_due_mono:
            self._claim_due_mono = time.monotonic() + self._member.claim_after_s / 2
            for source in list(self._seen):
                yield from self._claim(source)
        if self.ready:
            return
        if self._seen:
            yield from self._take_new()
        else:
            yield Ask([], pause_s=1.0)

    def _leave(self, source: str) -> None:
        """Drop a source that the store has forgotten, and the group with it."""
        self._seen.pop(source, None)
        self._recovering.pop(source, None)
        self._held = {held for held in self._held if held[0] != source}

    def _join(self) -> Steps:
        for source in self._seen.keys() - set(self._roster.names):
            self._leave(source)
        fresh = [name for name in self._roster.names if name not in self._seen]
        if fresh:
            commands = [
                (
                    "XGROUP",
                    "CREATE",
                    self._stream(s),
                    self._member.group,
                    self._from(s),
                    "MKSTREAM",
                )
                for s in fresh
            ]
            for reply in (yield Ask(commands)):
                if not (isinstance(reply, redis.ResponseError) and "BUSYGROUP" in str(reply)):
                    sound(reply)
            self._seen |= dict.fromkeys(fresh, START)
            self._recovering |= dict.fromkeys(fresh, "0-0")
        self._joined_once = True

    def _from(self, source: str) -> str:
        if isinstance(self._start, Mapping):
            return self._start.get(source, "0")
        return "$" if self._start == "new" and not self._joined_once else "0"

    def _recover(self, source: str) -> Steps:
        """Take this consumer's own results again that it had not acknowledged when it broke off."""
        (reply,) = yield Ask([self._read(source, self._recovering[source])])
        if _is_gone(reply):
            self._leave(source)
            return
        entries = (sound(reply) or [[b"", []]])[0][1]
        if not entries:
            del self._recovering[source]
            return
        self._recovering[source] = entries[-1][0].decode()
        lost = [entry[0] for entry in entries if not entry[1]]
        if lost:
            yield Ask([self._ack(source, *(position.decode() for position in lost))])
        self.ready.extend(_trimmed(source, lost))
        self._give(source, entries)

    def _claim(self, source: str) -> Steps:
        """Take results over that other consumers got and left lying."""
        idle_ms = str(round(self._member.claim_after_s * 1e3))
        names = (self._stream(source), self._member.group, self._member.consumer)
        (reply,) = yield Ask([("XAUTOCLAIM", *names, idle_ms, "0-0", "COUNT", COUNT)])
        if _is_gone(reply):
            self._leave(source)
            return
        cursor, entries, lost = sound(reply)
        if cursor != b"0-0":
            self._claim_due_mono = 0.0
        self.ready.extend(_trimmed(source, lost))
        self._give(source, entries)

    def _take_new(self) -> Steps:
        streams = [self._stream(source) for source in self._seen]
        after = [str(position) for position in self._seen.values()]
        wait = ("XREAD", "COUNT", "1", "BLOCK", BLOCK_MS, "STREAMS", *streams, *after)
        (reply,) = yield Ask([wait])
        woken = {stream.decode() for stream, _ in sound(reply) or ()}
        for source in list(self._seen):
            if self._stream(source) in woken:
                yield from self._take(source)

    def _take(self, source: str) -> Steps:
        """Take the group's next results, in one transaction with what shows a gap before them."""
        stream = self._stream(source)
        about = [("XINFO", "STREAM", stream), ("XINFO", "GROUPS", stream)]
        info, groups, reply = yield Ask([*about, self._read(source, ">")], atomic=True)
        if _is_gone(reply) or _is_gone(groups):
            self._leave(source)
            return
        known = [fields_of(group) for group in sound(groups)]
        ours = next(g for g in known if g[b"name"] == self._member.group.encode())
        delivered = Position.parse(ours[b"last-delivered-id"])
        entries = (sound(reply) or [[b"", []]])[0][1]
        self._seen[source] = Position.parse(entries[-1][0]) if entries else delivered
        gap = _gap(source, fields_of(sound(info)), ours, delivered) if entries else None
        if gap is not None:
            self.ready.append(gap)
        self._give(source, entries)

    def _read(self, source: str, after: str) -> Command:
        whose = ("GROUP", self._member.group, self._member.consumer)
        return (
            "XREADGROUP",
            *whose,
            "COUNT",
            COUNT,
            "STREAMS",
            self._stream(source),
            after,
        )

    def _give(self, source: str, entries: list[list[Any]]) -> None:
        for at, fields in entries:
            position = Position.parse(at)
            if not fields or (source, position) in self._held:
                continue
            end, result = read_entry(source, self._channel, [at, fields])
            if end is not None:
                self.ends[source] = end
            if end is not None and result is None:
                self._owed.append(self._ack(source, str(position)))
            elif result is not None:
                self._held.add((source, position))
                self.ready.append(result)


def _is_gone(reply: Any) -> bool:
    missing = ("NOGROUP", "no such key")
    return isinstance(reply, redis.ResponseError) and any(word in str(reply) for word in missing)


def _gap(
    source: str, info: dict[bytes, Any], group: dict[bytes, Any], delivered: Position
) -> ResultsTrimmed | None:
    """Return what was trimmed before the group got it; a fresh group misses nothing."""
    oldest = Position.parse(info[b"first-entry"][0])
    if delivered == START or oldest <= delivered or oldest == following(delivered):
        return None
    read = group.get(b"entries-read")
    gone = info[b"entries-added"] - info[b"length"]
    if read is not None and gone <= read:
        return None
    return ResultsTrimmed(source, str(delivered), str(oldest))


def _trimmed(source: str, lost: list[bytes]) -> list[ResultsTrimmed]:
    """Return the fault for pending results whose entries are gone."""
    if not lost:
        return []
    first, last = Position.parse(lost[0]), Position.parse(lost[-1])
    before = Position(first.epoch, first.seq - 1) if first.seq else START
    return [ResultsTrimmed(source, str(before), str(following(last)))]
