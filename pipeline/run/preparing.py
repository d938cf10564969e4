"""A model that is to come: every worker gets ready for it, or it does not come."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from framegate.pipeline.engine.control import Prepare, Prepared
from framegate.pipeline.errors import ModelNotTaken
from framegate.pipeline.run.worker_process import WorkerProcess

PATIENCE_S = 120.0


class Preparing:
    """Asks all workers at once; several questions may be open. Lives in the supervisor's event
    loop.
    """

    def __init__(self) -> None:
        self._asked = 0
        self._open: dict[int, dict[str, asyncio.Future[str | None]]] = {}

    async def ask(
        self, workers: Iterable[WorkerProcess], model: str, sources: list[str], is_new: bool
    ) -> None:
        """Returns once all are ready. ModelNotTaken if one is not.

        is_new: none of the sources had it before
        """
        there = list(workers)
        if away := [worker.name for worker in there if worker.pid is None]:
            # Another would begin with a model that it never judged.
            raise ModelNotTaken(f"worker {away[0]} is starting: try again in a moment")
        self._asked += 1
        ask, loop = self._asked, asyncio.get_running_loop()
        answers = {worker.name: loop.create_future() for worker in there}
        self._open[ask] = answers
        try:
            for worker in there:
                worker.tell(Prepare(ask, model, sources, is_new))
            _, late = await asyncio.wait(answers.values(), timeout=PATIENCE_S)
        finally:
            del self._open[ask]
        if late:
            raise ModelNotTaken(f"model {model}: not ready in {PATIENCE_S:.0f} s")
        faults = [answer.result() for answer in answers.values()]
        if fault := next((fault for fault in faults if fault is not None), None):
            raise ModelNotTaken(f"{fault}; the run goes on with the model that it has")

    def told(self, worker: str, message: Prepared) -> None:
        """A worker's answer."""
        _settle(self._open.get(message.ask, {}).get(worker), message.fault)

    def died(self, worker: str) -> None:
        """It may have died of the model."""
        for answers in self._open.values():
            _settle(answers.get(worker), f"worker {worker} died while it got ready")


def _settle(answer: asyncio.Future[str | None] | None, fault: str | None) -> None:
    if answer is not None and not answer.done():
        answer.set_result(fault)
