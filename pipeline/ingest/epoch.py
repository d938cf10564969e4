"""Asking for sources' next epochs without holding the other sources up.

An epoch must be on disk before its first frame (a power cut must not give the same one twice), and
on the replicas that are asked for (nor must a failover). That takes up to a second, or as long as
they are away: so the requests have a connection of their own. What is asked for while one round is
waited for waits for the next, all of it together. Log and replication keep the order of writes:
with an epoch, the claim before it is there as well.
"""

from __future__ import annotations

import logging
from collections import deque

from framegate.pipeline.errors import StoreRefused
from framegate.pipeline.store.connection import Command, Link
from framegate.pipeline.store.hop import Verdict, epoch_command, replicas_command, too_few_replicas

log = logging.getLogger(__name__)

_ON_DISK: Command = ("WAITAOF", "1", "0", "5000")


class EpochRequests:
    """Requests under way, by source, on a connection of their own. One thread."""

    def __init__(self, link: Link, run: str, replicas: int = 0) -> None:
        self.link = link
        self._run, self._replicas = run, replicas
        self._next: dict[str, Command] = {}
        self._asked: list[str] = []  # in this round, in order; empty: nobody wants it any more
        self._got: list[int] = []
        self._awaited: deque[Command] = deque()
        self._told = False  # that replicas are away; once, while they are

    def ask(self, source: str, token: bytes) -> None:
        """Ask for the next epoch of a source, unless that is under way."""
        if source not in self._next and source not in self._asked:
            self._next[source] = epoch_command(source, token, self._run)
            self._begin()

    def _begin(self) -> None:
        if self._next and not self._asked:
            replicated = [replicas_command(self._replicas)] if self._replicas else []
            self._awaited = deque([_ON_DISK, *replicated])
            self.link.send(*self._next.values(), *self._awaited)
            self._asked, self._got, self._next = list(self._next), [], {}

    def hear(self) -> dict[str, int | Verdict]:
        """Call when the link is readable: epochs that cannot be lost, or why there is none."""
        self.link.fill()
        given: dict[str, int | Verdict] = {}
        while self._asked and self.link.here():
            if len(self._got) < len(self._asked):
                given |= self._verdict(self.link.receive())
                continue
            command = self._awaited.popleft()
            if not self._reached(command):
                self._awaited.append(command)
                self.link.send(command)
            if not self._awaited:
                given |= dict(zip(self._asked, self._got, strict=True))
                self._asked = []
                self._begin()
        given.pop("", None)
        return given

    def _verdict(self, reply: list[bytes]) -> dict[str, Verdict]:
        """Note an epoch; why there is none is told at once."""
        at = len(self._got)
        if reply[0] == b"OK":
            self._got.append(int(reply[1]))
            return {}
        self._got.append(0)
        source, self._asked[at] = self._asked[at], ""
        return {source: Verdict(reply[0])}

    def _reached(self, command: Command) -> bool:
        try:
            reply = self.link.receive()
        except StoreRefused as refused:
            if command is not _ON_DISK or "appendonly" not in str(refused):
                raise
            return True  # the store keeps no log: epochs are as durable as it is
        if command is _ON_DISK:
            return bool(reply[0])
        away = bool(reply < self._replicas)
        if away and not self._told:
            missing = too_few_replicas(reply, self._replicas)
            waiting = ", ".join(source for source in self._asked if source)
            log.warning("source %s: its next epoch waits: %s", waiting, missing)
        self._told = away
        return not away

    def forget(self, source: str) -> None:
        """Whatever is said of this source is not for the one that may come back."""
        self._next.pop(source, None)
        self._asked = ["" if asked == source else asked for asked in self._asked]
