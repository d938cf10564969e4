"""One reader behind blocking and asyncio programs: what to send where, and when to try again.

Does no I/O. Each of its generators yields legs, what one server is to be asked; a driver sends a
leg, blocking or not, and sends the replies, or throws the error, back in. On a cluster each command
goes to the server that holds its key. A read of several streams becomes one a stream there, which
does not wait: one command cannot wait for several servers, so that the reader asks again after a
moment.
"""

from __future__ import annotations

import random
import time
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from redis.exceptions import AskError, ClusterCrossSlotError

from framegate.pipeline.client.follower import Ask, Follower, Given
from framegate.pipeline.client.group import GroupFollower
from framegate.pipeline.contracts.errors import StoreBusy, StoreLost
from framegate.pipeline.contracts.records import End
from framegate.pipeline.contracts.results import Output, Result
from framegate.pipeline.store.client import store_errors
from framegate.pipeline.store.connection import Command
from framegate.pipeline.store.links import Nodes
from framegate.pipeline.system.retry import Backoff

ASK_AGAIN_S = 0.1

T = TypeVar("T")


@dataclass
class Leg:
    """What one server is asked in one write, or in one transaction; without commands, a pause.

    indices  to which command of the whole each of these belongs
    """

    url: str
    commands: list[Command] = field(default_factory=list)
    indices: list[int] = field(default_factory=list)
    atomic: bool = False
    pause_s: float = 0.0


Legs = Generator[Leg, list[Any], T]
"""Yields legs, is sent a leg's replies, returns a T. An error of the driver's is thrown in."""


class Reader:
    """Gives the results that a follower finds, across losses of the store. One thread or task."""

    def __init__(self, url: str, follower: Follower | GroupFollower, patience_s: float) -> None:
        """patience_s: how long the store may be away before StoreLost, StoreBusy is raised."""
        self._url = url
        self._follower = follower
        self._patience_s = patience_s
        self._nodes: Nodes | None = None  # who holds what; None: no cluster, as far as is known
        self._failures = 0
        self._away_mono: float | None = None

    @property
    def ends(self) -> dict[str, End]:
        """The end of each source that has ended so far."""
        return self._follower.ends

    def next(self) -> Legs[Given | None]:
        """Return the next result or gap, None once all sources have ended."""
        while not self._follower.ready:
            if self._follower.finished:
                return None
            try:
                yield from self._round()
                self._failures, self._away_mono = 0, None
            except (StoreLost, StoreBusy) as error:
                yield Leg(self._url, pause_s=self._delay_s(error))
        return self._follower.ready.popleft()

    def ack(self, result: Result | Output[Any]) -> Legs[None]:
        """Acknowledge a result of a group. ValueError where there is no group."""
        if not isinstance(self._follower, GroupFollower):
            raise ValueError("ack: only results of a group are acknowledged")
        with store_errors(self._url):
            yield from self._replies(Ask([self._follower.ack(result.source, result.position)]))

    def _round(self) -> Legs[None]:
        """One round of the follower's; broken off by whatever is thrown in, cancellation too."""
        steps = self._follower.steps()
        replies: Any = None
        try:
            with store_errors(self._url):
                while True:
                    try:
                        ask = steps.send(replies)
                    except StopIteration:
                        return
                    replies = yield from self._replies(ask)
        except BaseException:
            self._follower.interrupted()
            raise

    def _replies(self, ask: Ask) -> Legs[list[Any]]:
        """Return the replies in the order of the commands."""
        replies = yield from self._spread(ask)
        if any(isinstance(reply, AskError | ClusterCrossSlotError) for reply in replies):
            # Another server holds a key: this is a cluster, or one that has changed. Where the
            # second try is refused, too, the follower takes it for a store that is busy.
            (slots,) = yield Leg(self._url, [("CLUSTER", "SLOTS")])
            self._nodes = Nodes(self._url, slots)
            replies = yield from self._spread(ask)
        pause_s = ask.pause_s
        if self._nodes is not None and not any(replies) and any("BLOCK" in c for c in ask.commands):
            pause_s += ASK_AGAIN_S
        if pause_s:
            yield Leg(self._url, pause_s=pause_s)
        return replies

    def _spread(self, ask: Ask) -> Legs[list[Any]]:
        """Ask server after server; the replies to a read's parts are one reply again."""
        whole: list[Any] = [None] * len(ask.commands)
        for leg in _legs(ask, self._url, self._nodes):
            try:
                replies = yield leg
            except AskError as elsewhere:  # a transaction raises this for all of its commands
                replies = [elsewhere] * len(leg.commands)
            for index, reply in zip(leg.indices, replies, strict=True):
                before = whole[index]
                if isinstance(before, list) and isinstance(reply, list):
                    whole[index] = before + reply
                elif reply is not None and not isinstance(before, Exception):
                    whole[index] = reply
        return whole

    def _delay_s(self, error: StoreLost | StoreBusy) -> float:
        """Seconds until the next try; the error itself once patience is at its end."""
        now = time.monotonic()
        self._away_mono = now if self._away_mono is None else self._away_mono
        if now - self._away_mono >= self._patience_s:
            raise error
        self._failures += 1
        return Backoff().delay_s(self._failures, random.random())


def _legs(ask: Ask, url: str, nodes: Nodes | None) -> list[Leg]:
    """Who is asked what; all goes to `url` where there is no cluster."""
    if not ask.commands:
        return []
    if nodes is None:
        return [Leg(url, list(ask.commands), list(range(len(ask.commands))), ask.atomic)]
    legs: dict[str, Leg] = {}
    for index, command in enumerate(ask.commands):
        for part in _parts(command):
            where = nodes.url_of_key(_key(part)) or url
            leg = legs.setdefault(where, Leg(where, atomic=ask.atomic))
            leg.commands.append(part)
            leg.indices.append(index)
    return list(legs.values())


def _parts(command: Command) -> list[Command]:
    """A read of several streams as one a stream that does not wait; others as they are."""
    if "STREAMS" not in command or command[0] != "XREAD":
        return [command]
    first = command.index("STREAMS")
    head, rest = list(command[:first]), command[first + 1 :]
    if "BLOCK" in head:
        wait = head.index("BLOCK")
        del head[wait : wait + 2]
    streams, ids = rest[: len(rest) // 2], rest[len(rest) // 2 :]
    return [(*head, "STREAMS", stream, i) for stream, i in zip(streams, ids, strict=True)]


def _key(command: Command) -> str:
    """The key that decides which server is asked."""
    if "STREAMS" in command:
        key = command[command.index("STREAMS") + 1]
    else:
        key = command[2 if command[0] in ("XINFO", "XGROUP") else 1]
    return key if isinstance(key, str) else key.decode()
