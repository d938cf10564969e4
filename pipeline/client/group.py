"""Follow streams in a consumer group: each result goes to one consumer, at least once.

This module does no I/O, like follower.py. A result that a consumer got and did not acknowledge is
pending. After `claim_after_s`, another consumer of the group takes it.
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
    RESULTS,
    Ask,
    Channel,
    Given,
    Roster,
    Start,
    Steps,
    checked,
    count_of_each,
    entries_of,
    fields_of,
    read_entry,
)
from framegate.pipeline.contracts.errors import ResultsTrimmed
from framegate.pipeline.contracts.records import START, End, Position
from framegate.pipeline.store.hop import Command


@dataclass(frozen=True)
class Consumer:
    """A consumer of a group.

    claim_after_s  age in seconds of another consumer's pending result before this one takes it
    """

    group: str
    consumer: str
    claim_after_s: float


class GroupFollower:
    """A reader that is one consumer of a group. Its results are pending until `ack`.

    ready  results and gaps that were read and not taken; they survive an interrupted round
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
        self._channel = channel
        self._stream = channel.stream
        self._start = start
        self._member = member
        self._seen: dict[str, Position] = {}  # up to which the group has got each source's entries
        self._pending: set[tuple[str, Position]] = set()  # given to the caller, not acknowledged
        self._unsent_acks: list[Command] = []  # for entries that have no value
        self._recovering: dict[str, str] = {}  # own pending entries are read again after this id
        self._joined_once = False
        self._claim_due_mono = 0.0
        self.ready: deque[Given] = deque()
        self.ends: dict[str, End] = {}

    def interrupted(self) -> None:
        """Note that a round was interrupted: results in lost replies are pending and read again."""
        self._recovering = dict.fromkeys(self._seen, "0-0")

    def ack(self, source: str, position: Position) -> Command:
        """Return the command that acknowledges a result."""
        self._pending.discard((source, position))
        return self._ack(source, str(position))

    def _ack(self, source: str, *positions: str) -> Command:
        return ("XACK", self._stream(source), self._member.group, *positions)

    def steps(self) -> Steps:
        """Make one round: own pending results first, then old ones of others, then new ones."""
        yield from self._roster.steps()
        yield from self._join()
        if self._unsent_acks:
            for reply in (yield Ask(list(self._unsent_acks))):
                checked(reply)
            self._unsent_acks = []
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
        self._pending = {place for place in self._pending if place[0] != source}

    def _join(self) -> Steps:
        for source in self._seen.keys() - set(self._roster.names):
            self._leave(source)
        known = self._roster.registered  # a group for another source would make its stream
        new = [name for name in self._roster.names if name not in self._seen and name in known]
        if new:
            group = self._member.group
            commands: list[Command] = []
            for source in new:
                first = self._first_id(source)
                commands.append(
                    ("XGROUP", "CREATE", self._stream(source), group, first, "MKSTREAM")
                )
            for reply in (yield Ask(commands)):
                exists = isinstance(reply, redis.ResponseError) and "BUSYGROUP" in str(reply)
                if not exists:
                    checked(reply)
            self._seen |= dict.fromkeys(new, START)
            self._recovering |= dict.fromkeys(new, "0-0")
        self._joined_once = True

    def _first_id(self, source: str) -> str:
        """Return the id after which a new group begins; `$` is the end of the stream."""
        if isinstance(self._start, Mapping):
            return str(self._start.get(source, "0"))
        if self._start == "new" and not self._joined_once:
            return "$"
        return "0"

    def _recover(self, source: str) -> Steps:
        """Read this consumer's own pending results again, after a start or an interruption."""
        (reply,) = yield Ask([self._read(source, self._recovering[source])])
        if _is_gone(reply):
            self._leave(source)
            return
        entries = entries_of(reply)
        if not entries:
            del self._recovering[source]
            return
        self._recovering[source] = entries[-1][0].decode()
        lost = [entry[0] for entry in entries if not entry[1]]  # trimmed while they were pending
        if lost:
            acks = [self._ack(source, *(position.decode() for position in lost))]
            for reply in (yield Ask(acks)):
                checked(reply)
        self.ready.extend(_trimmed(source, lost))
        self._give(source, entries)

    def _claim(self, source: str) -> Steps:
        """Take over results that are pending with other consumers for too long."""
        idle_ms = str(round(self._member.claim_after_s * 1e3))
        names = (self._stream(source), self._member.group, self._member.consumer)
        count = count_of_each(len(self._seen))
        (reply,) = yield Ask([("XAUTOCLAIM", *names, idle_ms, "0-0", "COUNT", count)])
        if _is_gone(reply):
            self._leave(source)
            return
        cursor, entries, lost = checked(reply)
        if cursor != b"0-0":  # there are more
            self._claim_due_mono = 0.0
        self.ready.extend(_trimmed(source, lost))
        self._give(source, entries)

    def _take_new(self) -> Steps:
        """Wait for new entries with XREAD, which can wait for all streams, and take them."""
        streams = [self._stream(source) for source in self._seen]
        after = [str(position) for position in self._seen.values()]
        wait = ("XREAD", "COUNT", "1", "BLOCK", BLOCK_MS, "STREAMS", *streams, *after)
        (reply,) = yield Ask([wait])
        woken = {stream.decode() for stream, _ in checked(reply) or ()}
        for source in list(self._seen):
            if self._stream(source) in woken:
                yield from self._take(source)

    def _take(self, source: str) -> Steps:
        """Take the group's next results, in one transaction with the data that shows a gap."""
        stream = self._stream(source)
        about = [("XINFO", "STREAM", stream), ("XINFO", "GROUPS", stream)]
        info, groups, reply = yield Ask([*about, self._read(source, ">")], atomic=True)
        if _is_gone(reply) or _is_gone(groups):
            self._leave(source)
            return
        known = [fields_of(group) for group in checked(groups)]
        ours = next(g for g in known if g[b"name"] == self._member.group.encode())
        delivered = Position.parse(ours[b"last-delivered-id"])
        entries = entries_of(reply)
        if not entries:
            self._seen[source] = delivered
            return
        self._seen[source] = Position.parse(entries[-1][0])
        gap = _gap(source, fields_of(checked(info)), ours, delivered)
        if gap is not None:
            self.ready.append(gap)
        self._give(source, entries)

    def _read(self, source: str, after: str) -> Command:
        consumer = ("GROUP", self._member.group, self._member.consumer)
        count = count_of_each(len(self._seen))
        return ("XREADGROUP", *consumer, "COUNT", count, "STREAMS", self._stream(source), after)

    def _give(self, source: str, entries: list[list[Any]]) -> None:
        for at, fields in entries:
            position = Position.parse(at)
            if not fields or (source, position) in self._pending:
                continue
            end, result = read_entry(source, self._channel, [at, fields])
            if end is not None:
                self.ends[source] = end
            if end is not None and result is None:
                self._unsent_acks.append(self._ack(source, str(position)))
            elif result is not None:
                self._pending.add((source, position))
                self.ready.append(result)


def _is_gone(reply: Any) -> bool:
    """Return whether the store has forgotten the source, and the group with it."""
    if not isinstance(reply, redis.ResponseError):
        return False
    text = str(reply)
    return "NOGROUP" in text or "no such key" in text


def _gap(
    source: str, info: dict[bytes, Any], group: dict[bytes, Any], delivered: Position
) -> ResultsTrimmed | None:
    """Return the gap of results that were trimmed before the group got them.

    A new group has no gap.
    """
    oldest = Position.parse(info[b"first-entry"][0])
    if delivered == START or oldest <= delivered or oldest == delivered.following:
        return None
    read = group.get(b"entries-read")
    gone = info[b"entries-added"] - info[b"length"]
    if read is not None and gone <= read:
        return None
    return ResultsTrimmed(source, str(delivered), str(oldest))


def _trimmed(source: str, lost: list[bytes]) -> list[ResultsTrimmed]:
    """Return the gap of pending results whose entries were trimmed, if there are any."""
    if not lost:
        return []
    first = Position.parse(lost[0])
    before = START
    if first.seq:
        before = Position(first.epoch, first.seq - 1)
    after = Position.parse(lost[-1]).following
    return [ResultsTrimmed(source, str(before), str(after))]
