"""The reader behind blocking and asyncio programs: which server gets which command, and retries.

`follower` has the position in each stream; `group` that of a consumer group.

This module does no I/O. Its generators yield legs; a leg is the commands for one server. A driver
sends the leg, blocking or with asyncio, and passes the replies or the error into the generator.

On a cluster, each command goes to the server with its key. A read of several streams becomes one
read for each stream that does not block, because one command cannot wait for several servers; the
reader asks again after ASK_AGAIN_S.
"""

from __future__ import annotations

import random
import time
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from redis.exceptions import AskError, ClusterCrossSlotError

from framegate.pipeline.client.follower import Ask, Follower, Given, checked
from framegate.pipeline.client.group import GroupFollower
from framegate.pipeline.contracts.errors import StoreBusy, StoreLost
from framegate.pipeline.contracts.records import End
from framegate.pipeline.contracts.results import Output, Result
from framegate.pipeline.store.cluster import Nodes
from framegate.pipeline.store.hop import Command
from framegate.pipeline.store.redis_client import store_errors
from framegate.pipeline.system.retry import Backoff

ASK_AGAIN_S = 0.1

T = TypeVar("T")


@dataclass
class Leg:
    """The commands for one server in one write or one transaction; without commands, a pause.

    indices  the index in the Ask that each command is a part of
    """

    url: str
    commands: list[Command] = field(default_factory=list)
    indices: list[int] = field(default_factory=list)
    atomic: bool = False
    pause_s: float = 0.0


Legs = Generator[Leg, list[Any], T]
"""Yields legs, gets each leg's replies (or the driver's error thrown in), and returns a T."""


class Reader:
    """The results of a follower, across losses of the store. One thread or task."""

    def __init__(self, url: str, follower: Follower | GroupFollower, patience_s: float) -> None:
        """Read from the store at `url`.

        patience_s  seconds that the store may be away before StoreLost or StoreBusy is raised
        """
        self._url = url
        self._follower = follower
        self._patience_s = patience_s
        self._nodes: Nodes | None = None  # None: no server has replied that it is in a cluster
        self._failures = 0
        self._away_mono: float | None = None

    @property
    def ends(self) -> dict[str, End]:
        """Return the end of each source that has ended so far."""
        return self._follower.ends

    def next(self) -> Legs[Given | None]:
        """Return the next result or gap; None when the follower has finished."""
        while not self._follower.ready:
            if self._follower.finished:
                return None
            try:
                yield from self._round()
                self._failures = 0
                self._away_mono = None
            except (StoreLost, StoreBusy) as error:
                yield Leg(self._url, pause_s=self._delay_s(error))
        return self._follower.ready.popleft()

    def ack(self, result: Result | Output[Any]) -> Legs[None]:
        """Acknowledge a result of a group. Raise ValueError if the reader is not in a group.

        Raise an error of the store if it is away or refuses: the result is still pending.
        """
        if not isinstance(self._follower, GroupFollower):
            raise ValueError("ack: this subscription has no group; pass group and consumer to it")
        with store_errors(self._url):
            ask = Ask([self._follower.ack(result.source, result.position)])
            for reply in (yield from self._replies(ask)):
                checked(reply)

    def _round(self) -> Legs[None]:
        """Make one round of the follower. Any error ends it, including a cancellation."""
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
            # Another server has a key: this is a cluster, or its slots have moved. If the second
            # try is refused too, the follower raises the error, and the store counts as busy.
            (slots,) = yield Leg(self._url, [("CLUSTER", "SLOTS")])
            self._nodes = Nodes(self._url, slots)
            replies = yield from self._spread(ask)
        pause_s = ask.pause_s
        should_wait = any("BLOCK" in command for command in ask.commands)
        if self._nodes is not None and should_wait and not any(replies):
            pause_s += ASK_AGAIN_S
        if pause_s:
            yield Leg(self._url, pause_s=pause_s)
        return replies

    def _spread(self, ask: Ask) -> Legs[list[Any]]:
        """Ask one server after another; join the replies to the parts of a read."""
        joined: list[Any] = [None] * len(ask.commands)
        for leg in _legs(ask, self._url, self._nodes):
            try:
                replies = yield leg
            except AskError as error:  # a transaction raises it once for all its commands
                replies = [error] * len(leg.commands)
            for index, reply in zip(leg.indices, replies, strict=True):
                before = joined[index]
                if isinstance(before, list) and isinstance(reply, list):
                    joined[index] = before + reply
                elif reply is not None and not isinstance(before, Exception):
                    joined[index] = reply
        return joined

    def _delay_s(self, error: StoreLost | StoreBusy) -> float:
        """Return the seconds until the next try. Raise the error when the patience is over."""
        now = time.monotonic()
        if self._away_mono is None:
            self._away_mono = now
        if now - self._away_mono >= self._patience_s:
            self._away_mono = None  # the caller may iterate again, with the same patience
            self._failures = 0
            raise error
        self._failures += 1
        return Backoff().delay_s(self._failures, random.random())


def _legs(ask: Ask, url: str, nodes: Nodes | None) -> list[Leg]:
    """Return the legs of an Ask; without a cluster, one to `url`."""
    if not ask.commands:
        return []
    if nodes is None:
        return [Leg(url, list(ask.commands), list(range(len(ask.commands))), ask.atomic)]
    legs: dict[str, Leg] = {}
    for index, command in enumerate(ask.commands):
        for part in _parts(command):
            server = nodes.url_of_key(_key(part)) or url
            leg = legs.setdefault(server, Leg(server, atomic=ask.atomic))
            leg.commands.append(part)
            leg.indices.append(index)
    return list(legs.values())


def _parts(command: Command) -> list[Command]:
    """Return a read of streams as one read for each that does not block; other commands as is."""
    if "STREAMS" not in command or command[0] != "XREAD":
        return [command]
    first = command.index("STREAMS")
    head = list(command[:first])
    rest = command[first + 1 :]
    if "BLOCK" in head:
        wait = head.index("BLOCK")
        del head[wait : wait + 2]
    half = len(rest) // 2
    pairs = zip(rest[:half], rest[half:], strict=True)
    return [(*head, "STREAMS", stream, after) for stream, after in pairs]


def _key(command: Command) -> str:
    """Return the key that decides which server gets a command."""
    if "STREAMS" in command:
        key = command[command.index("STREAMS") + 1]
    elif command[0] in ("XINFO", "XGROUP"):
        key = command[2]
    else:
        key = command[1]
    if isinstance(key, bytes):
        return key.decode()
    return key
