"""A worker beside those of a run: it comes and goes while the run goes on, and nobody waits for it.

It steps back behind the others for the CPU, reads what they write, and holds nothing up.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
from collections.abc import Sequence

import msgspec

from framegate.pipeline.engine.control import Failed, Ready, Sources, Stop, ToSupervisor
from framegate.pipeline.errors import ModelNotTaken
from framegate.pipeline.run.deaths import Deaths
from framegate.pipeline.run.plan import Plan
from framegate.pipeline.run.run_sources import RunSources
from framegate.pipeline.run.shared_files import SharedFiles
from framegate.pipeline.run.worker_process import WorkerProcess, exit_in_words
from framegate.pipeline.spec import SourceSpec, StageSpec, WorkerSpec

log = logging.getLogger(__name__)

NICE = 19
READY_S = 120.0
STOP_S = 5.0
MOST_DEATHS = 3


class Beside:
    """One such worker, or none. Lives in the event loop."""

    def __init__(self, plan: Plan, url: str, sources: RunSources, shared: SharedFiles) -> None:
        self._plan, self._url, self._sources, self._shared = plan, url, sources, shared
        self._worker: WorkerProcess | None = None
        self._task: asyncio.Task[None] | None = None
        self._ready: asyncio.Future[str | None] | None = None

    async def start(self, stage: StageSpec) -> None:
        """Host this stage from now on, in place of what was there.

        Returns once it is ready. ModelNotTaken with the reason if it cannot be.
        """
        await self.stop()
        plan = dataclasses.replace(self._plan, stages=(*self._plan.stages, stage))
        self._worker = WorkerProcess(stage.name, [stage.name], self._heard, self._shared.answer)
        self._ready = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._keep_alive(self._worker, plan))
        try:
            fault = await asyncio.wait_for(asyncio.shield(self._ready), READY_S)
        except TimeoutError:
            fault = f"not ready in {READY_S:.0f} s"
        if fault is not None:
            await self.stop()
            raise ModelNotTaken(f"{stage.name}: {fault}")

    async def stop(self) -> None:
        """End it, if there is one."""
        worker, task, self._worker, self._task = self._worker, self._task, None, None
        if worker is None or task is None:
            return
        worker.tell(Stop())
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(task), STOP_S)
        worker.kill()
        if worker.pid is None:  # none could be started so far
            task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()

    def take_sources(self, sources: Sequence[SourceSpec]) -> None:
        """These are the run's sources now."""
        if self._worker is not None:
            self._worker.tell(Sources(list(sources)))

    async def _keep_alive(self, worker: WorkerProcess, plan: Plan) -> None:
        deaths = 0
        while worker is self._worker and deaths < MOST_DEATHS:
            await worker.start(lambda: self._spec(worker, plan))
            code = await worker.ended()
            deaths = deaths + 1 if worker.vain_deaths else 1
            self._note_ready(f"its worker ended ({exit_in_words(code)})")
            if worker is self._worker:
                log.warning("worker %s ended (%s)", worker.name, exit_in_words(code))
        if worker is self._worker:
            log.error("worker %s died %d times: the run goes on without it", worker.name, deaths)

    def _spec(self, worker: WorkerProcess, plan: Plan) -> WorkerSpec:
        sources = self._sources.specs()
        spec = plan.spec(worker.name, worker.hosted, self._url, sources, Deaths())
        return msgspec.structs.replace(spec, nice=NICE)

    def _heard(self, worker: WorkerProcess, message: ToSupervisor) -> None:
        if isinstance(message, Ready):
            self._note_ready(None)
        elif isinstance(message, Failed):
            log.error("worker %s: %s", worker.name, message.message)
            self._note_ready(message.message)

    def _note_ready(self, fault: str | None) -> None:
        if self._ready is not None and not self._ready.done():
            self._ready.set_result(fault)
