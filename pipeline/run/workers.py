"""The workers of a run: started, replaced when dead, killed when hung, told, asked, ended.

Those of the plan live as long as the run does; of several that share its sources each is started
when it has one, and is told of its own only.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from framegate.pipeline.config.graph import with_readers
from framegate.pipeline.contracts.errors import (
    Exit,
    ModelNotTaken,
    NoReply,
    RequestRefused,
    StoreBusy,
    StoreLost,
)
from framegate.pipeline.contracts.redaction import shown
from framegate.pipeline.contracts.spec import SourceSpec, WorkerSpec
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
from framegate.pipeline.run.deaths import LIMIT, RunEnding
from framegate.pipeline.run.plan import Plan, Shards, sources_for
from framegate.pipeline.run.shared_files import MOST_PICTURES, SharedFiles
from framegate.pipeline.run.sources import RunSources
from framegate.pipeline.run.store_probe import StoreProbe
from framegate.pipeline.run.worker_process import WorkerProcess, exit_in_words
from framegate.pipeline.system.process import in_thread
from framegate.pipeline.telemetry.counters import StageTimes
from framegate.pipeline.telemetry.run_status import RunStatus, SourceStatus, WorkerStatus

log = logging.getLogger(__name__)

STOP_S = 10.0
FRUITLESS_DEATHS = 10
PREPARE_S = 120.0  # for all workers to get ready for a model
TIMES_S = 1.0  # for their answer how long their stages worked


class Workers:
    """All workers of one run. Lives in the event loop.

    changed   set when there may be something to look for in the store
    shared    the shared memory that they ask for
    given_up  stages of the plan that the run goes on without
    parked    why, by source, nobody serves it as long as this process lives: its worker cannot
    """

    def __init__(
        self,
        plan: Plan,
        sources: RunSources,
        probe: StoreProbe,
        ending: RunEnding,
        all_ready: Callable[[], None],
    ) -> None:
        """all_ready: called each time when all workers that are waited for are ready."""
        self.changed = asyncio.Event()
        self.shared = SharedFiles(
            Path(plan.folder) / "state", MOST_PICTURES if plan.pictures else 0
        )
        self.given_up: set[str] = set()
        self.parked: dict[str, str] = {}
        self._plan, self._sources, self._probe = plan, sources, probe
        self._ending, self._all_ready = ending, all_ready
        self._shards = Shards(plan.workers, plan.fill)
        workers = [
            WorkerProcess(name, hosted, self._heard, self.shared.answer)
            for name, hosted in plan.workers.items()
        ]
        self._planned = [w for w in workers if w.name not in self._shards.spare]
        self._spare = [w for w in workers if w.name in self._shards.spare]
        self._tasks: dict[WorkerProcess, asyncio.Task[None]] = {}
        self._draining = self._stopping = False
        self._others_ready = asyncio.Event()
        if all("decode" in worker.hosted for worker in self._planned):
            self._others_ready.set()

    @property
    def _served(self) -> list[WorkerProcess]:
        """Workers that are waited for: of the plan, and not given up."""
        return [w for w in self._planned if not self.given_up.issuperset(w.hosted)]

    # -- as long as the run goes on

    def start(self) -> None:
        """Keep each worker of the plan alive."""
        for worker in self._planned:
            self._keep(worker)
        self._start_spare()

    def _start_spare(self) -> None:
        """Have spare workers serve that have sources now."""
        for worker in [w for w in self._spare if self._sources_of(w)]:
            self._spare.remove(worker)
            self._planned.append(worker)
            self._keep(worker)

    def _sources_of(self, worker: WorkerProcess) -> list[SourceSpec]:
        return self._shards.of(worker.name, self._sources.specs())

    def drain(self) -> None:
        """Decode no further."""
        self._draining = True
        for worker in self._planned:
            if "decode" in worker.hosted:
                worker.tell(Drain())
        self.changed.set()

    @property
    def drained(self) -> bool:
        """Return whether no worker decodes any more."""
        return all(w.pid is None for w in self._planned if "decode" in w.hosted)

    def tell_sources(self, decoders_only: bool = False) -> None:
        """Tell all workers which sources there are now."""
        for worker in self._planned:
            if "decode" in worker.hosted or not decoders_only:
                worker.tell(SetSources(sources_for(self._sources_of(worker), worker.deaths)))
        self._start_spare()
        self.changed.set()

    def forget(self, source: str) -> None:
        """Forget a source that was removed, once all workers were told."""
        self.shared.drop(source)
        self.parked.pop(source, None)
        for worker in self._planned:
            worker.deaths.forget(source)

    def tell_models(self) -> None:
        """Tell the workers of the plan which models were chosen."""
        for worker in self._planned:
            worker.tell(SetModels(self._sources.models()))

    async def prepare(self, model: str, sources: list[str], is_new: bool) -> None:
        """Have all workers of the plan get ready for a model. See `prepare` below."""
        await prepare(self._served, Prepare(model, sources, is_new))

    def kill_hung(self, pending: Mapping[str, set[str]]) -> None:
        """Kill workers that do not get on although a stage of theirs has something to do, and
        those that do not even answer: whether a camera has something to say is not known.

        pending: stages with something to do, by source
        """
        now, hung_s = time.monotonic(), self._plan.hung_s
        for worker in self._planned:
            theirs = {s: at for s, at in pending.items() if self._shards.serves(worker.name, s)}
            if not worker.is_ready or not worker.has_work(theirs):
                worker.progress_mono = now
            if not worker.is_ready:
                continue
            worker.ping()
            if now - min(worker.progress_mono, worker.unanswered_mono or now) > hung_s:
                log.error("worker %s: no progress for %.0f s: killed", worker.name, hung_s)
                worker.progress_mono, worker.unanswered_mono = now, None
                worker.kill(hung=True)

    async def status(self) -> RunStatus:
        """Return how the run is; asks the workers for their times."""
        workers = list(self._planned)
        asked = await asyncio.gather(*(worker.times(TIMES_S) for worker in workers))
        times: dict[str, StageTimes] = {}
        for stage, spent in (one for each in asked for one in each.items()):
            times[stage] = times.get(stage, StageTimes()).plus(spent)
        unready = [f"worker {w.name} is not ready" for w in self._served if not w.is_ready]
        return RunStatus(
            run=self._plan.run,
            draining=self._draining,
            unready=sorted(unready) + (["the run is draining"] if self._draining else []),
            workers=[WorkerStatus(w.name, w.pid, w.is_ready, w.restarts) for w in workers],
            sources=[
                SourceStatus(
                    name=spec.name,
                    url=shown(spec.request.url, spec.live),
                    live=spec.live,
                    past=spec.past,
                    credit=spec.credit,
                    slots=spec.slots,
                    shared_bytes=self.shared.nbytes(spec.name),
                    hears=spec.request.sound > 0,
                )
                for spec in self._sources.specs()
            ],
            times=times,
            sinks=self._plan.sinks,
        )

    async def stop(self) -> list[BaseException]:
        """End all workers: after the commit in hand if the run is done, else at once.

        Returns the errors, of ours, that ended the care of a worker.
        """
        self._stopping = True
        for worker in self._planned:
            worker.tell(Stop())
        ended = asyncio.create_task(self._all_gone())
        failed = asyncio.create_task(self._ending.failed())
        await asyncio.wait([ended, failed], timeout=STOP_S, return_when=asyncio.FIRST_COMPLETED)
        failed.cancel()
        cared_for = dict(self._tasks)
        await asyncio.gather(*(self._end(worker, task) for worker, task in cared_for.items()))
        await ended
        results = [task.exception() for task in cared_for.values() if not task.cancelled()]
        return [error for error in results if error is not None]

    async def _all_gone(self) -> None:
        for worker in self._planned:
            await worker.gone()

    # -- one worker

    def _keep(self, worker: WorkerProcess) -> None:
        task = asyncio.create_task(self._keep_alive(worker))
        self._tasks[worker] = task
        task.add_done_callback(self._ending.fell)

    async def _end(self, worker: WorkerProcess, task: asyncio.Task[None]) -> None:
        """End a worker at once, and what keeps it alive, whatever that is just doing."""
        worker.kill()
        await worker.gone()
        task.cancel()
        await asyncio.wait([task])
        worker.kill()  # the task may have started another meanwhile
        await worker.gone()
        worker.hang_up()

    def _is_wanted(self, worker: WorkerProcess) -> bool:
        return worker in self._planned and not self.given_up.issuperset(worker.hosted)

    async def _keep_alive(self, worker: WorkerProcess) -> None:
        if "decode" in worker.hosted:
            await self._others_ready.wait()
        while not self._stopping:
            await self._start(worker)
            code = await worker.ended()
            if self._stopping or (self._draining and code == Exit.DONE):
                self.changed.set()
                return
            if not self._is_wanted(worker):
                return
            if code == Exit.FENCED and not await self._may_own_any(self._sources_of(worker)):
                log.error("worker %s: another run took all its sources over", worker.name)
                if not await self._may_own_any(self._sources.specs()):
                    self._ending.end(Exit.FENCED)
                self.changed.set()
            else:
                await self._learn_from_death(worker, exit_in_words(code))
            if self._ending.code is not None or not self._is_wanted(worker):
                return
            log.warning("worker %s ended (%s); starting another", worker.name, exit_in_words(code))
            if rest_s := worker.deaths.rest_s(random.random()):
                await asyncio.sleep(rest_s)

    async def _start(self, worker: WorkerProcess) -> None:
        def spec() -> WorkerSpec:
            sources = self._sources_of(worker)
            names = {source.name for source in sources}
            models = {name: m for name, m in self._sources.models().items() if name in names}
            return self._plan.spec(worker.name, worker.hosted, sources, worker.deaths, models)

        await worker.start(spec)
        if self._draining and "decode" in worker.hosted:
            worker.tell(Drain())
        if self._stopping or not self._is_wanted(worker):
            worker.tell(Stop())

    async def _may_own_any(self, sources: Sequence[SourceSpec]) -> bool:
        """Return False if all of these were taken over; where there is none, none was."""
        names = [source.name for source in sources]
        if not names:
            return not self._sources.all_lost()
        return any([await in_thread(self._probe.may_be_ours, name) for name in names])

    async def _learn_from_death(self, worker: WorkerProcess, how: str) -> None:
        specs = self._sources_of(worker)
        names, live = [s.name for s in specs], {s.name for s in specs if s.live}
        try:
            found = await in_thread(self._probe.positions, names, worker.hosted)
        except (StoreLost, StoreBusy):
            worker.deaths.died_unseen()
            return
        for (source, stage), at in worker.deaths.died(worker.in_hand, *found, live):
            log.error(
                "source %s frame %s: it killed its worker %d times in stage %s: set aside",
                source, at, LIMIT, stage,
            )  # fmt: skip
        if min(worker.vain_deaths, worker.deaths.fruitless) >= FRUITLESS_DEATHS:
            self._give_up(
                worker,
                f"it ended {FRUITLESS_DEATHS} times in a row without getting on (now: {how})",
            )

    def _give_up(self, worker: WorkerProcess, why: str, code: Exit = Exit.SOURCE_FAILED) -> None:
        """Go on without the stages of a worker, or, where others host the same, without its
        sources; end if neither can be: its stages are on the main path.
        """
        log.error("worker %s: %s", worker.name, why)
        stages = with_readers(self._plan.stages, worker.hosted)
        if any(stage.main for stage in stages):
            if not self._park(worker, why):
                self._ending.end(code)
            return
        self.given_up |= {stage.name for stage in stages}
        names = ", ".join(stage.name for stage in stages)
        log.error("the run continues without %s", names)
        self._note_ready()
        self.changed.set()

    def _park(self, worker: WorkerProcess, why: str) -> bool:
        """Go on without a worker and the sources that it has; False if no other serves.

        Another worker does not get them: what cannot be lived with may be what they have in hand.
        """
        names = [source.name for source in self._sources_of(worker)]
        others = [w for w in self._served if w is not worker and w.was_ready]
        if not others or not self._shards.close(worker.name):
            return False
        self._planned.remove(worker)
        self.parked |= dict.fromkeys(names, f"worker {worker.name}: {why}; --resume tries again")
        log.error("the run continues without %s", ", ".join(names))
        self._note_ready()
        self.changed.set()
        return True

    def _heard(self, worker: WorkerProcess, notice: ToSupervisor) -> None:
        if isinstance(notice, FramesKept):
            # One that had it before it went and came back does not know what it has now.
            if self._shards.serves(worker.name, notice.source):
                self.shared.keep_frames(notice.source, notice.names)
        elif isinstance(notice, Ready):
            self._note_ready()
        elif isinstance(notice, EndPassed):
            self.changed.set()
        elif isinstance(notice, Failed):
            code = Exit(notice.exit)
            if worker.was_ready and code is not Exit.STORE:
                self._give_up(worker, notice.message, code)
            else:
                log.error("worker %s: %s", worker.name, notice.message)
                self._ending.end(code)

    def _note_ready(self) -> None:
        if all(worker.is_ready for worker in self._served if "decode" not in worker.hosted):
            self._others_ready.set()
        if all(worker.is_ready for worker in self._served):
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
    replies = await asyncio.gather(
        *(worker.ask(request, type(None), PREPARE_S) for worker in asked), return_exceptions=True
    )
    for worker, error in zip(asked, replies, strict=True):
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
        raise ModelNotTaken(f"{what}; the run keeps its model")
