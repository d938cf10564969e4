"""The commits that a decoding worker has sent, until their replies are read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from framegate.pipeline.engine.runner import PendingCommits
from framegate.pipeline.store.hop import END, Commit, CommitReply, SourceHop
from framegate.pipeline.store.worker_connections import LinkBatch


class SentCommits:
    """The last commit. Its replies are read when the loop wakes for another reason, because a
    wake-up for them would cost as much as the commit.
    """

    def __init__(
        self, parts: list[LinkBatch], pending: PendingCommits, decoded: Mapping[str, Commit]
    ) -> None:
        """parts: by link; pending, decoded: the commits of stages and decoders, by source."""
        self.pending = pending
        self.decoded = decoded
        self._parts = parts

    def __bool__(self) -> bool:
        """Return whether replies are unread."""
        return bool(self._parts)

    @property
    def has_end(self) -> bool:
        """Return whether an end is in the commit: readers outside the loop wait for it."""
        for hop in self._hops():
            for commit in hop.commits:
                if commit.entries and commit.entries[-1].kind == END:
                    return True
        return False

    def _hops(self) -> Iterator[SourceHop]:
        for part in self._parts:
            yield from part.hops

    @property
    def sources(self) -> list[str]:
        """Return the sources whose replies are unread."""
        return [hop.source for hop in self._hops()]

    def answers(self) -> list[tuple[str, CommitReply]]:
        """Read the replies, and wait for those that are not here. Each is returned once."""
        parts = self._parts
        self._parts = []
        answers: list[tuple[str, CommitReply]] = []
        for part in parts:
            answers += part.receive()
        return answers
