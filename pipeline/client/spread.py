"""A reader's commands over the servers of a cluster, each to the one that holds its key. Pure.

A read of several streams becomes one a stream that does not wait: nobody can wait for several
servers at once with a command, so that a reader of a cluster looks again after a moment.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from redis.exceptions import AskError, ClusterCrossSlotError

from framegate.pipeline.store.connection import Command
from framegate.pipeline.store.links import Nodes

LOOK_AGAIN_S = 0.1


@dataclass
class Leg:
    """What one server is asked. places: of which command of the whole each is a part."""

    url: str
    commands: list[Command] = field(default_factory=list)
    places: list[int] = field(default_factory=list)


def spread(commands: Sequence[Command], url: str, nodes: Nodes | None) -> list[Leg]:
    """Who is asked what; all goes to `url` where there is no cluster."""
    if nodes is None:
        return [Leg(url, list(commands), list(range(len(commands))))] if commands else []
    legs: dict[str, Leg] = {}
    for place, command in enumerate(commands):
        for part in _parts(command):
            where = nodes.url_of_key(_key(part)) or url
            leg = legs.setdefault(where, Leg(where))
            leg.commands.append(part)
            leg.places.append(place)
    return list(legs.values())


def gathered(
    commands: Sequence[Command], legs: Sequence[Leg], replies: list[list[Any]]
) -> list[Any]:
    """The replies in the order of the commands; those of a read's parts are one reply again."""
    whole: list[Any] = [None] * len(commands)
    for leg, theirs in zip(legs, replies, strict=True):
        for place, reply in zip(leg.places, theirs, strict=True):
            before = whole[place]
            if isinstance(before, list) and isinstance(reply, list):
                whole[place] = before + reply
            elif reply is not None and not isinstance(before, Exception):
                whole[place] = reply
    return whole


def is_elsewhere(replies: Sequence[Any]) -> bool:
    """Whether a server said that another one holds a key: this is a cluster, and has changed."""
    return any(isinstance(reply, AskError | ClusterCrossSlotError) for reply in replies)


def pause_s(commands: Sequence[Command], nodes: Nodes | None, replies: Sequence[Any]) -> float:
    """How long to wait after a read that would have waited for more, and found nothing."""
    waits = nodes is not None and any("BLOCK" in command for command in commands)
    return LOOK_AGAIN_S if waits and not any(replies) else 0.0


def _parts(command: Command) -> list[Command]:
    if "STREAMS" not in command or command[0] != "XREAD":
        return [command]
    at = command.index("STREAMS")
    head, rest = list(command[:at]), command[at + 1 :]
    if "BLOCK" in head:
        wait = head.index("BLOCK")
        del head[wait : wait + 2]
    streams, ids = rest[: len(rest) // 2], rest[len(rest) // 2 :]
    return [(*head, "STREAMS", stream, i) for stream, i in zip(streams, ids, strict=True)]


def _key(command: Command) -> str:
    if "STREAMS" in command:
        key = command[command.index("STREAMS") + 1]
    else:
        key = command[2 if command[0] in ("XINFO", "XGROUP") else 1]
    return key if isinstance(key, str) else key.decode()
