"""Decide when the streams of a worker's stages are trimmed."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import Final

from framegate.pipeline.contracts import keys
from framegate.pipeline.contracts.spec import WorkerSpec
from framegate.pipeline.store.hop import Command, trim_command

TRIM_EVERY: Final = 64  # entries by which a stream grows between two trims


class Trimming:
    """The growth of the streams of one worker's stages. Pure.

    After TRIM_EVERY entries a stream is due for a trim, which removes the entries that all of its
    readers have read, and all later stages of the main path. Otherwise frames would be lost if the
    run stopped while a later stage was behind, and then continued without a stage before it: the
    later stage would read this stream. The credit limits how far the later stages are behind.
    """

    def __init__(self, spec: WorkerSpec) -> None:
        self._hosted = spec.hosted
        self._untrimmed: dict[tuple[str, str], int] = {}
        self._due: set[tuple[str, str]] = set()
        self._readers: dict[tuple[str, bool], tuple[str, ...]] = {}
        for name, live in itertools.product(spec.hosted, (False, True)):
            readers = spec.readers(name, live)
            if readers and not spec.stage(name).publishes:
                later = spec.main_path_after(name)
                self._readers[name, live] = tuple(dict.fromkeys((*readers, *later)))
        # A restarted decoder learns from its own stream which pixels are still needed.
        if "decode" in spec.hosted:
            for live in (False, True):
                self._readers["decode", live] = spec.last_readers(live)
        self._read = {name for name, _ in self._readers}

    def count_entries(self, source: str, stage: str, entries: int) -> None:
        """Count the entries that were added to a stage's stream."""
        growth = self._untrimmed.get((source, stage), 0) + entries
        self._untrimmed[source, stage] = growth
        if growth >= TRIM_EVERY and stage in self._read:
            self._due.add((source, stage))

    def make_all_due(self, sources: Iterable[str]) -> None:
        """Make the next `commands` cover all streams of these sources."""
        self._due.update(itertools.product(sources, self._read))

    def forget(self, source: str) -> None:
        """Forget a source."""
        for stage in self._hosted:
            self._untrimmed.pop((source, stage), None)
            self._due.discard((source, stage))

    def commands(self, live: Mapping[str, bool]) -> list[tuple[str, Command]]:
        """Return the trims that are due for these sources, each with its source.

        live  by source: whether it is a camera
        """
        if not self._due:
            return []
        due = {place for place in self._due if place[0] in live}
        self._due -= due
        trims = []
        for source, stage in due:
            self._untrimmed[source, stage] = 0
            readers = self._readers.get((stage, live[source]))
            if readers:
                trims.append((source, trim_command(source, keys.out(source, stage), readers)))
        return trims
