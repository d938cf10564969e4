"""Asking for a source's next epoch without holding the other sources up.

It must be on disk before its first frame (a power cut must not give the same epoch twice), which
takes up to a second: so the request has a connection of its own.
"""

from __future__ import annotations

from pipeline.errors import StoreRefused
from pipeline.hop import Verdict, epoch_command
from pipeline.wire import Link

_ON_DISK = ("WAITAOF", "1", "0", "5000")


class EpochRequest:
    """One request under way, on a connection of its own. One thread."""

    def __init__(self, link: Link, source: str, token: bytes, run: str) -> None:
        self.link = link
        self.link.send(epoch_command(source, token, run), _ON_DISK)
        self._epoch: int | None = None

    def answer(self) -> int | Verdict | None:
        """Call when the link is readable: the epoch, why not, or None: still waiting."""
        self.link.fill()
        if self._epoch is None and self.link.here():
            reply = self.link.receive()
            if reply[0] != b"OK":
                return Verdict(reply[0])
            self._epoch = int(reply[1])
        if self._epoch is None or not self.link.here():
            return None
        try:
            synced, _ = self.link.receive()
        except StoreRefused as refused:
            if "appendonly" not in str(refused):
                raise
            return self._epoch  # the store keeps no log: epochs are as durable as it is
        if not synced:
            self.link.send(_ON_DISK)
            return None
        return self._epoch

    def close(self) -> None:
        """Close the connection."""
        self.link.close()
