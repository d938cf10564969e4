"""Asking for a source's next epoch without holding the other sources up.

It must be on disk before its first frame (a power cut must not give the same epoch twice), and on
the replicas that are asked for (nor must a failover). That takes up to a second, or as long as they
are away: so the request has a connection of its own. Log and replication keep the order of writes:
with an epoch, the claim before it is there as well.
"""

from __future__ import annotations

import logging
from collections import deque

from pipeline.errors import StoreRefused
from pipeline.hop import Verdict, epoch_command, replicas_command, too_few_replicas
from pipeline.wire import Command, Link

log = logging.getLogger(__name__)

_ON_DISK: Command = ("WAITAOF", "1", "0", "5000")


class EpochRequest:
    """One request under way, on a connection of its own. One thread."""

    def __init__(self, link: Link, source: str, token: bytes, run: str, replicas: int = 0) -> None:
        self.link = link
        self._source, self._replicas = source, replicas
        self._awaited = deque([_ON_DISK, *([replicas_command(replicas)] if replicas else [])])
        self.link.send(epoch_command(source, token, run), *self._awaited)
        self._epoch: int | None = None

    def answer(self) -> int | Verdict | None:
        """Call when the link is readable: the epoch, why not, or None: still waiting."""
        self.link.fill()
        if self._epoch is None and self.link.here():
            reply = self.link.receive()
            if reply[0] != b"OK":
                return Verdict(reply[0])
            self._epoch = int(reply[1])
        while self._epoch is not None and self._awaited and self.link.here():
            command = self._awaited.popleft()
            if not self._reached(command):
                self._awaited.append(command)
                self.link.send(command)
        return None if self._awaited else self._epoch

    def _reached(self, command: Command) -> bool:
        try:
            reply = self.link.receive()
        except StoreRefused as refused:
            if command is not _ON_DISK or "appendonly" not in str(refused):
                raise
            return True  # the store keeps no log: epochs are as durable as it is
        if command is _ON_DISK:
            return bool(reply[0])
        if reply < self._replicas:
            missing = too_few_replicas(reply, self._replicas)
            log.warning("source %s: its next epoch waits: %s", self._source, missing)
        return bool(reply >= self._replicas)

    def close(self) -> None:
        """Close the connection."""
        self.link.close()
