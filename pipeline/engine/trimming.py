"""When to remove from streams what all of their readers have read. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from framegate.pipeline import keys
from framegate.pipeline.spec import WorkerSpec
from framegate.pipeline.store.connection import Command
from framegate.pipeline.store.hop import trim_command

TRIM_EVERY = 64


class Trimming:
    """Counts how much longer the streams of one worker's stages became."""

    def __init__(self, spec: WorkerSpec) -> None:
        self._hosted = spec.hosted
        self._untrimmed: dict[tuple[str, str], int] = {}
        self._due: set[tuple[str, str]] = set()
        self._readers = {
            name: readers
            for name in spec.hosted
            if (readers := spec.readers(name)) and not spec.stage(name).publishes
        }
        # A restarted decoder learns from its own stream which pixels are still needed.
        if "decode" in spec.hosted:
            self._readers["decode"] = spec.last_readers()

    def wrote(self, source: str, stage: str, entries: int) -> None:
        """Count what makes a stage's stream longer."""
        longer = self._untrimmed.get((source, stage), 0) + entries
        self._untrimmed[source, stage] = longer
        if longer >= TRIM_EVERY and stage in self._readers:
            self._due.add((source, stage))

    def all_are_due(self, sources: Iterable[str]) -> None:
        """Let all streams of these sources be trimmed."""
        self._due |= {(source, stage) for source in sources for stage in self._readers}

    def forget(self, source: str) -> None:
        """The source is no more served here."""
        for stage in self._hosted:
            self._untrimmed.pop((source, stage), None)
            self._due.discard((source, stage))

    def commands(self, sources: Iterable[str]) -> list[tuple[str, Command]]:
        """The calls that are due for these sources, each with its source."""
        if not self._due:
            return []
        theirs = set(sources)
        due = {place for place in self._due if place[0] in theirs}
        self._due -= due
        for place in due:
            self._untrimmed[place] = 0
        return [
            (source, trim_command(source, keys.out(source, stage), self._readers[stage]))
            for source, stage in due
        ]
