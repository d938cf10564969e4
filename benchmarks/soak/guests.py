"""Sources that come and go during the soak: visitors, and hostile cameras by turns."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterable
from typing import NamedTuple

from framegate.pipeline.contracts.errors import FramegateError
from framegate.pipeline.run.folder import RunSource
from framegate.pipeline.run.rpc import Add, Remove, RunCommand, ask
from tests.support.runs import Run

VISIT_S = 3.0
VISITORS = 30  # names, in turn: each comes back after a while
SETTLE_S = 3.0
END_S = 60.0


class Span(NamedTuple):
    """UNIX seconds in which the hostile cameras were there, or were not."""

    since: float
    until: float
    hostile: bool


class Guests(threading.Thread):
    """Has cameras come and go, one every VISIT_S, and all hostile ones together by turns."""

    def __init__(self, run: Run, visited: str, hostile: dict[str, str], span_s: float) -> None:
        """visited: URL of the camera that comes and goes; hostile: URLs by name."""
        super().__init__(name="guests", daemon=True)
        self._run, self._visited, self._hostile, self._span_s = run, visited, hostile, span_s
        self._over = threading.Event()
        self.spans: list[Span] = []
        self.counts = {"added": 0, "removed": 0, "refused": 0}
        self.here: set[str] = set()

    def run(self) -> None:
        """Until stopped; a store or worker that is away right now is no reason to end."""
        names = itertools.cycle(f"visitor_{n}" for n in range(VISITORS))
        last = ""
        due = time.monotonic()
        for hostile in itertools.cycle((False, True)):
            self._change(hostile)
            since = time.time() + SETTLE_S
            ends = time.monotonic() + self._span_s
            while time.monotonic() < ends:
                if last:
                    self._ask(Remove([last]), [last])
                last = next(names)
                self._ask(Add([_source(last, self._visited)]), [last])
                due = max(due + VISIT_S, time.monotonic())
                if self._over.wait(due - time.monotonic()):
                    break
            self.spans.append(Span(since, time.time(), hostile))
            if self._over.is_set():
                return

    def stop(self) -> None:
        """End after what is being asked."""
        self._over.set()
        self.join(2 * END_S)

    def _change(self, hostile: bool) -> None:
        there = self.here & set(self._hostile)
        if hostile and not there:
            sources = [_source(name, url) for name, url in self._hostile.items()]
            self._ask(Add(sources), self._hostile)
        elif there and not hostile:
            self._ask(Remove(sorted(there)), there)

    def _ask(self, question: RunCommand, names: Iterable[str]) -> None:
        try:
            ask(self._run.folder, question, END_S)
        except FramegateError as fault:
            self.counts["refused"] += 1
            print(f"refused: {fault}"[:300], flush=True)
            return
        if isinstance(question, Add):
            self.here = self.here | set(names)  # another one: it is read meanwhile
            self.counts["added"] += len(question.sources)
        elif isinstance(question, Remove):
            self.here = self.here - set(names)
            self.counts["removed"] += len(question.names)


def _source(name: str, url: str) -> RunSource:
    return RunSource(url, name=name, pace="realtime", live=True, by="add")
