"""The workers of a run: started, replaced when dead, killed when hung, told, asked, ended."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from framegate.pipeline.config.graph import with_readers
from framegate.pipeline.engine.control import (
    Drain,
    EndPassed,
    Failed,
    FramesKept,
    Prepare,
    Ready,
    SetModels,
    SetSources,
    Stop,
    ToSupervisor,
)
from framegate.pipeline.errors import (
    Exit,
    ModelNotTaken,
    NoReply,
    RequestRefused,
    StoreBusy,
    StoreLost,
)
from framegate.pipeline.process import apart
from framegate.pipeline.redaction import shown
from framegate.pipeline.retry import Backoff
from framegate.pipeline.run.deaths import LIMIT
from framegate.pipeline.run.ending import Ending
from framegate.pipeline.run.lookout import Lookout
from framegate.pipeline.run.plan import Plan, told_sources
from framegate.pipeline.run.shared_files import MOST_PICTURES, SharedFiles
from framegate.pipeline.run.sources import RunSources
from framegate.pipeline.run.worker_process import WorkerProcess, exit_in_words
from framegate.pipeline.spec import WorkerSpec
from framegate.pipeline.telemetry.counters import (
    RunStatus,
    SourceStatus,
    WorkerStatus,
)

log = logging.getLogger(__name__)

STOP_S = 10.0
FRUITLESS_DEATHS = 10
MOST_REST_S = 30.0  # between two starts of a worker that gets nothing done
PREPARE_S = 120.0  # for all workers to get ready for a model
TIMES_S = 1.0  # for their answer how long their stages worked


class Crew:
    """Lives in the event loop.

    changed   set when there may be something to look for in the store
    given_up  stages that the run goes on without
    """

    def __init__(
        self,
        plan: Plan,
        url: str,
        sources: RunSources,
        lookout: Lookout,
        ending: Ending,
        all_ready: Callable[[], None],
    ) -> None:
        """all_ready: called each time when all workers that are waited for are ready."""
        self.changed = asyncio.Event()
        self.shared = SharedFiles(
            Path(plan.folder) / "state", MOST_PICTURES if plan.pictures else 0
        )
        self.given_up: set[str] = set()
        self._plan, self._url, self._sources = plan, url, sources
        self._lookout, self._ending, self._all_ready = lookout, ending, all_ready
        self._workers = [
            WorkerProcess(name, hosted, self._heard, self.shared.answer)
            for name, hosted in plan.workers.items()
        ]
        self._draining = self._stopping = False
        self._ready: set[str] = set()
        self._once_ready: set[str] = set()
        self._others_ready = asyncio.Event()
        if all("decode" in worker.hosted for worker in self._workers):
            self._others_ready.set()

    # -- from outside

    def start(self) -> list[asyncio.Task[None]]:
        """Keep each worker alive, in a task of its own."""
        return [asyncio.create_task(self._keep_alive(worker)) for worker in self._workers]

    def drain(self) -> None:
        """Decode no further."""
        self._draining = True
        for worker in self._workers:
            if "decode" in worker.hosted:
                worker.tell(Drain())
        self.changed.set()

    @property
    def drained(self) -> bool:
        """Whether no worker decodes any more."""
        return all(w.pid is None for w in self._workers if "decode" in w.hosted)

    def tell_sources(self, decoders_only: bool = False) -> None:
        """Tell all workers which sources there are now."""
        for worker in self._workers:
            if "decode" in worker.hosted or not decoders_only:
                worker.tell(SetSources(told_sources(self._sources.specs(), worker.deaths)))
        self.changed.set()

    def forget(self, source: str) -> None:
        """A source was removed; all workers were told."""
        self.shared.drop(source)
        for worker in self._workers:
            worker.deaths.forget(source)

    def tell_models(self) -> None:
        """Tell all workers which models were chosen."""
        for worker in self._workers:
            worker.tell(SetModels(self._sources.models()))

    async def prepare(self, model: str, sources: list[str], is_new: bool) -> None:
        """Have all workers get ready for a model. ModelNotTaken if one cannot, or dies of it."""
        served = [w for w in self._workers if not self.given_up.issuperset(w.hosted)]
        await prepare(served, Prepare(model, sources, is_new))

    def kill_hung(self, pending: Mapping[str, set[str]]) -> None:
        """Kill workers that do not get on although a stage of theirs has something to do, and
        those that do not even answer: whether a camera has something to say is not known.

        pending: stages with something to do, by source
        """
        now, hung_s = time.monotonic(), self._plan.hung_s
        for worker in self._workers:
            ready = worker.name in self._ready
            if not ready or not worker.has_work(pending):
                worker.progress_mono = now
            if not ready:
                continue
            worker.ping()
            if now - min(worker.progress_mono, worker.unanswered_mono or now) > hung_s:
                log.error("worker %s: no progress for %.0f s: killed", worker.name, hung_s)
                worker.progress_mono, worker.unanswered_mono = now, None
                worker.kill(hung=True)

    async def status(self) -> RunStatus:
        """How the run is; asks the workers for their times."""
        asked = await asyncio.gather(*(worker.times(TIMES_S) for worker in self._workers))
        times = {stage: spent for stages in asked for stage, spent in stages.items()}
        workers = [
            WorkerStatus(w.name, w.pid, w.name in self._ready, w.restarts) for w in self._workers
        ]
        served = {w.name for w in self._workers if not self.given_up.issuperset(w.hosted)}
        sources = [
            SourceStatus(
                name=spec.name,
                url=shown(spec.request.url),
                live=spec.live,
                past=spec.past,
                credit=spec.credit,
                slots=spec.slots,
                shared_bytes=self.shared.nbytes(spec.name),
            )
            for spec in self._sources.specs()
        ]
        unready = [f"worker {name} is not ready" for name in sorted(served - self._ready)]
        unready += ["the run is draining"] if self._draining else []
        return RunStatus(self._plan.run, self._draining, unready, workers, sources, times)

    async def stop(self) -> None:
        """End all workers: after the commit in hand if the run is done, else at once."""
        self._stopping = True
        for worker in self._workers:
            worker.tell(Stop())
        deadline = time.monotonic() + STOP_S
        while any(worker.pid is not None for worker in self._workers):
            if self._ending.code is not Exit.DONE or time.monotonic() > deadline:
                for worker in self._workers:
                    worker.kill()
            await asyncio.sleep(0.01)

    # -- one worker

    async def _keep_alive(self, worker: WorkerProcess) -> None:
        if "decode" in worker.hosted:
            await self._others_ready.wait()
        while not self._stopping:
            await self._start(worker)
            code = await worker.ended()
            self._ready.discard(worker.name)
            if self._stopping or (self._draining and code == Exit.DONE):
                self.changed.set()
                return
            if code == Exit.FENCED and not await self._may_own_any():
                log.error("worker %s: another run took all its sources over", worker.name)
                self._ending.end(Exit.FENCED)
            else:
                await self._learn_from_death(worker, exit_in_words(code))
            if self._ending.code is not None or self.given_up.issuperset(worker.hosted):
                return
            log.warning("worker %s ended (%s); starting another", worker.name, exit_in_words(code))
            # One that lives for a while and gets nothing done is never given up, as there may be
            # nothing to do (cameras that are off), but it is started ever less often.
            vain = max(worker.vain_deaths, worker.deaths.fruitless)
            if vain > 1:
                delay = Backoff(0.1, MOST_REST_S).delay_s(vain - 1, random.random())
                await asyncio.sleep(delay)

    async def _start(self, worker: WorkerProcess) -> None:
        def spec() -> WorkerSpec:
            sources, models = self._sources.specs(), self._sources.models()
            hosted, deaths = worker.hosted, worker.deaths
            return self._plan.spec(worker.name, hosted, self._url, sources, deaths, models)

        await worker.start(spec)
        if self._draining and "decode" in worker.hosted:
            worker.tell(Drain())
        if self._stopping:
            worker.tell(Stop())

    async def _may_own_any(self) -> bool:
        """False if all was taken over; where there is nothing, nothing was."""
        names = [source.name for source in self._sources.specs()]
        if not names:
            return not self._sources.all_lost()
        return any([await apart(self._lookout.may_be_ours, name) for name in names])

    async def _learn_from_death(self, worker: WorkerProcess, how: str) -> None:
        specs = self._sources.specs()
        names, live = [s.name for s in specs], {s.name for s in specs if s.live}
        try:
            found = await apart(self._lookout.places, names, worker.hosted)
        except (StoreLost, StoreBusy):
            return
        for (source, stage), at in worker.deaths.died(worker.in_hand, *found, live):
            log.error(
                "source %s frame %s: it killed its worker %d times in stage %s: set aside",
                source, at, LIMIT, stage,
            )  # fmt: skip
        if min(worker.vain_deaths, worker.deaths.fruitless) >= FRUITLESS_DEATHS:
            n = FRUITLESS_DEATHS
            self._give_up(worker, f"it ended {n} times in a row without getting on (now: {how})")

    def _give_up(self, worker: WorkerProcess, why: str, code: Exit = Exit.SOURCE_FAILED) -> None:
        """Go on without the stages of a worker; end if they are on the main path."""
        stages = with_readers(self._plan.stages, worker.hosted)
        log.error("worker %s: %s", worker.name, why)
        if any(stage.main for stage in stages):
            self._ending.end(code)
            return
        self.given_up |= {stage.name for stage in stages}
        names = ", ".join(stage.name for stage in stages)
        log.error("the run goes on without: %s", names)
        self._note_ready()
        self.changed.set()

    def _heard(self, worker: WorkerProcess, message: ToSupervisor) -> None:
        if isinstance(message, FramesKept):
            self.shared.keep_frames(message.source, message.names)
        elif isinstance(message, Ready):
            self._ready.add(worker.name)
            self._once_ready.add(worker.name)
            self._note_ready()
        elif isinstance(message, EndPassed):
            self.changed.set()
        elif isinstance(message, Failed):
            code = Exit(message.exit)
            if worker.name in self._once_ready and code is not Exit.STORE:
                self._give_up(worker, message.message, code)
            else:
                log.error("worker %s: %s", worker.name, message.message)
                self._ending.end(code)

    def _note_ready(self) -> None:
        waited_for = [w for w in self._workers if not self.given_up.issuperset(w.hosted)]
        if self._ready >= {w.name for w in waited_for if "decode" not in w.hosted}:
            self._others_ready.set()
        if self._ready >= {w.name for w in waited_for}:
            self._all_ready()


async def prepare(workers: Iterable[WorkerProcess], request: Prepare) -> None:
    """Have these workers get ready for a model, all at once; several models may be under way.

    ModelNotTaken if one is not there, cannot, dies of it, or takes too long: then none of them
    serves it.
    """
    asked = list(workers)
    if away := [worker.name for worker in asked if worker.pid is None]:
        # Another would begin with a model that it never judged.
        raise ModelNotTaken(f"worker {away[0]} is starting: try again in a moment")
    said = await asyncio.gather(
        *(worker.ask(request, type(None), PREPARE_S) for worker in asked), return_exceptions=True
    )
    for worker, error in zip(asked, said, strict=True):
        if isinstance(error, NoReply) and error.gone:
            what = f"worker {worker.name} died while it got ready"
        elif isinstance(error, NoReply):
            raise ModelNotTaken(f"model {request.model}: not ready in {PREPARE_S:.0f} s")
        elif isinstance(error, RequestRefused):
            what = str(error)
        elif isinstance(error, BaseException):
            raise error
        else:
            continue
        raise ModelNotTaken(f"{what}; the run goes on with the model that it has")
