"""How long the stages of all workers waited and worked, over all the workers' lives."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable

from framegate.pipeline.engine.control import Times, TimesWanted
from framegate.pipeline.run.worker_process import WorkerProcess
from framegate.pipeline.telemetry.counters import StageTimes, TimesOverLives

ANSWER_S = 1.0


class CrewTimes:
    """Asks all workers at once. Lives in the supervisor's event loop."""

    def __init__(self) -> None:
        self._lives: dict[str, TimesOverLives] = {}
        self._asked: set[str] = set()
        self._told = asyncio.Event()

    def told(self, worker: str, message: Times) -> None:
        """A worker's answer."""
        self._lives.setdefault(worker, TimesOverLives()).told(message.stages)
        self._asked.discard(worker)
        if not self._asked:
            self._told.set()

    def died(self, worker: str) -> None:
        """Another begins at nothing."""
        if worker in self._lives:
            self._lives[worker].died()

    async def ask(self, workers: Iterable[WorkerProcess]) -> dict[str, StageTimes]:
        """By stage; of a worker that does not answer in a second, what it told last."""
        asked = [worker for worker in workers if worker.pid is not None]
        for worker in asked:
            worker.tell(TimesWanted())
        self._asked = {worker.name for worker in asked}
        self._told.clear()
        if self._asked:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._told.wait(), ANSWER_S)
        return {stage: t for lives in self._lives.values() for stage, t in lives.total().items()}
