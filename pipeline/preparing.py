"""A model that is to come: every worker gets ready for it, or it does not come."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from pipeline.control import Prepare, Prepared
from pipeline.errors import ModelNotTaken
from pipeline.worker_process import WorkerProcess

PATIENCE_S = 120.0


class Preparing:
    """Asks all workers at once. Lives in the supervisor's event loop."""

    def __init__(self) -> None:
        self._asked = 0
        self._answers: dict[str, asyncio.Future[str | None]] = {}

    async def ask(self, workers: Iterable[WorkerProcess], model: str, sources: list[str]) -> None:
        """Returns once all are ready; one question at a time. ModelNotTaken if one is not."""
        self._asked += 1
        loop = asyncio.get_running_loop()
        there = [worker for worker in workers if worker.pid is not None]
        if not there:
            raise ModelNotTaken(f"model {model}: no worker runs")
        self._answers = {worker.name: loop.create_future() for worker in there}
        for worker in there:
            worker.tell(Prepare(self._asked, model, sources))
        _, late = await asyncio.wait(self._answers.values(), timeout=PATIENCE_S)
        if late:
            raise ModelNotTaken(f"model {model}: not ready in {PATIENCE_S:.0f} s")
        faults = [answer.result() for answer in self._answers.values()]
        if fault := next((fault for fault in faults if fault is not None), None):
            raise ModelNotTaken(f"{fault}; the run goes on with the model that it has")

    def told(self, worker: str, message: Prepared) -> None:
        """A worker's answer."""
        if message.ask == self._asked:
            self._answer(worker, message.fault)

    def died(self, worker: str) -> None:
        """It may have died of the model."""
        self._answer(worker, f"worker {worker} died while it got ready")

    def _answer(self, worker: str, fault: str | None) -> None:
        answer = self._answers.get(worker)
        if answer is not None and not answer.done():
            answer.set_result(fault)
