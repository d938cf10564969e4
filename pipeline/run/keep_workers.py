"""Keep the workers of a run alive: start them, restart dead ones, kill hung ones, and end them.

`restarts` decides how long a restart waits and what the new process leaves out. `worker_handle` is
a single worker; `worker_main` is the function that its process runs.

Workers with different stages all serve all sources. Workers with the same stages share the sources;
each starts when it gets its first source, and knows its own sources only.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from framegate.pipeline.config.graph import with_readers
from framegate.pipeline.contracts.errors import (
    Exit,
    ModelNotTaken,
    NoReply,
    RequestRefused,
    StoreBusy,
    StoreLost,
)
from framegate.pipeline.contracts.object_filters import ObjectFilter
from framegate.pipeline.contracts.redaction import shown
from framegate.pipeline.contracts.spec import SourceSpec, WorkerSpec
from framegate.pipeline.engine.control_messages import (
    CloseCameras,
    Drain,
    EndPassed,
    Failed,
    FramesKept,
    Prepare,
    Ready,
    SetFilters,
    SetModels,
    SetOptions,
    SetSources,
    Stop,
    Stopped,
    ToSupervisor,
)
from framegate.pipeline.fleet.cost_meter import WorkerUse
from framegate.pipeline.run.plan import Plan, Shards, sources_for
from framegate.pipeline.run.restarts import FRUITLESS_DEATHS, LIMIT
from framegate.pipeline.run.run_ending import RunEnding
from framegate.pipeline.run.shared_files import MOST_PICTURES, SharedFiles
from framegate.pipeline.run.sources import RunSources
from framegate.pipeline.run.store_probe import StoreProbe
from framegate.pipeline.run.worker_handle import WorkerHandle
from framegate.pipeline.system.process import exit_in_words, in_thread, process_use
from framegate.pipeline.telemetry.run_status import (
    RunStatus,
    SourceStatus,
    StageTimes,
    WorkerStatus,
)

log = logging.getLogger(__name__)

STOP_S = 10.0
PREPARE_S = 120.0  # time for all workers to prepare a model
TIMES_S = 1.0  # time for a worker to report the times of its stages


class Workers:
    """All workers of a run. All methods run in the event loop.

    changed   set when the supervisor should look at the store
    shared    the shared memory of the workers
    stopped   sources that are handed over and whose decoders have stopped
    given_up  stages of the plan that the run continues without
    parked    sources that no worker serves as long as this process lives, with the reason
    """

    def __init__(
        self,
        plan: Plan,
        sources: RunSources,
        probe: StoreProbe,
        ending: RunEnding,
        all_ready: Callable[[], None],
    ) -> None:
        """all_ready: called each time that all workers in use have become ready."""
        self.changed = asyncio.Event()
        pictures = 0
        if plan.pictures:
            pictures = MOST_PICTURES
        self.shared = SharedFiles(Path(plan.folder) / "state", pictures)
        self.stopped: set[str] = set()
        self.given_up: set[str] = set()
        self.parked: dict[str, str] = {}
        self._plan = plan
        self._sources = sources
        self._probe = probe
        self._ending = ending
        self._all_ready = all_ready
        self._shards = Shards(plan.workers, plan.fill)
        # `_planned` are the workers in use. A spare one moves there with its first source.
        self._planned: list[WorkerHandle] = []
        self._spare: list[WorkerHandle] = []
        for name, hosted in plan.workers.items():
            worker = WorkerHandle(name, hosted, self._heard, self.shared.answer)
            if name in self._shards.spare:
                self._spare.append(worker)
            else:
                self._planned.append(worker)
        self._tasks: dict[WorkerHandle, asyncio.Task[None]] = {}
        self._hung_look_mono = time.monotonic()  # of the last `kill_hung`
        self._draining = False
        self._stopping = False
        self._were_ready = False  # all workers in use were ready at the same time
        self._others_ready = asyncio.Event()  # all workers in use without a decoder are ready
        if all("decode" in worker.hosted for worker in self._planned):
            self._others_ready.set()

    @property
    def _served(self) -> list[WorkerHandle]:
        """Return the workers in use that are not given up."""
        return [w for w in self._planned if not self.given_up.issuperset(w.hosted)]

    # -- during the run

    def start(self) -> None:
        """Start the workers, and restart them when they die."""
        for worker in self._planned:
            self._keep(worker)
        self._start_spare()

    def _start_spare(self) -> None:
        """Start the spare workers that have sources now."""
        for worker in [w for w in self._spare if self._sources_of(w)]:
            self._spare.remove(worker)
            self._planned.append(worker)
            self._keep(worker)

    def _sources_of(self, worker: WorkerHandle) -> list[SourceSpec]:
        return self._shards.of(worker.name, self._sources.specs())

    def drain(self) -> None:
        """Stop decoding."""
        self._draining = True
        for worker in self._planned:
            if "decode" in worker.hosted:
                worker.tell(Drain())
        self.changed.set()

    @property
    def drained(self) -> bool:
        """Return whether all workers with a decoder have ended."""
        return all(w.pid is None for w in self._planned if "decode" in w.hosted)

    def tell_sources(self, decoders_only: bool = False) -> None:
        """Send the current sources to all workers. decoders_only: to workers with a decoder only"""
        for worker in self._planned:
            if "decode" in worker.hosted or not decoders_only:
                worker.tell(SetSources(sources_for(self._sources_of(worker), worker.deaths)))
        self._start_spare()
        self.changed.set()

    def forget(self, source: str) -> None:
        """Forget a removed source, after `tell_sources`."""
        self.shared.drop(source)
        self.parked.pop(source, None)
        self.stopped.discard(source)
        for worker in self._planned:
            worker.deaths.forget(source)

    def close_cameras(self, names: list[str]) -> None:
        """Close the connections of these cameras, and allow those of all others."""
        for worker in self._planned:
            if "decode" in worker.hosted:
                worker.tell(CloseCameras(names))

    def tell_models(self) -> None:
        """Send the chosen models to all workers."""
        for worker in self._planned:
            worker.tell(SetModels(self._sources.models()))

    def tell_filters(self) -> None:
        """Send the object filters to all workers."""
        for worker in self._planned:
            worker.tell(SetFilters(self._filters()))

    def set_options(self, stage: str, options: dict[str, Any]) -> None:
        """Run a stage with other options from now on, also in workers that start later."""
        self._plan = self._plan.with_options(stage, options)
        for worker in self._planned:
            worker.tell(SetOptions(stage, options))

    def name_sinks(self, sinks: tuple[str, ...]) -> None:
        """Report these sinks in the status from now on."""
        self._plan = replace(self._plan, sinks=sinks)

    def _filters(self) -> dict[str, ObjectFilter]:
        """Return the object filters as stages get them, without their origin."""
        return {each.name: each.plain() for each in self._sources.filters()}

    async def prepare(self, model: str, sources: list[str], is_new: bool) -> None:
        """Prepare a model in all workers in use. See the function `prepare`."""
        await prepare(self._served, Prepare(model, sources, is_new))

    def kill_hung(self, pending: Mapping[str, set[str]]) -> None:
        """Kill the workers that make no progress although they have work, or do not answer.

        A worker that waits for a camera has no work but must answer. Call this regularly. After a
        break, during which the store was away, the time of every worker begins again.

        pending: stages with work, by source
        """
        now = time.monotonic()
        hung_s = self._plan.hung_s
        had_break = now - self._hung_look_mono > hung_s / 2
        self._hung_look_mono = now
        for worker in self._planned:
            if had_break:
                worker.progress_mono = now
                if worker.unanswered_mono is not None:
                    worker.unanswered_mono = now
            work = {s: stages for s, stages in pending.items() if self._serves(worker, s)}
            if not worker.is_ready or not worker.has_work(work):
                worker.progress_mono = now
            if not worker.is_ready:
                continue
            worker.ping()
            last_sign_mono = min(worker.progress_mono, worker.unanswered_mono or now)
            if now - last_sign_mono > hung_s:
                log.error("worker %s: no progress for %.0f s: killed", worker.name, hung_s)
                worker.progress_mono = now
                worker.unanswered_mono = None
                worker.kill(hung=True)

    def _serves(self, worker: WorkerHandle, source: str) -> bool:
        return self._shards.serves(worker.name, source)

    def uses(self) -> list[WorkerUse]:
        """Return the CPU time of each worker process, and its sources. Call it in the loop."""
        uses = []
        for worker in self._planned:
            if worker.pid is not None and (use := process_use(worker.pid)) is not None:
                specs = self._sources_of(worker)
                shared = self.shared
                sizes = {s.name: shared.picture_nbytes(s.name) / s.slots for s in specs}
                uses.append(WorkerUse(worker.pid, use.cpu_s, sizes))
        return uses

    async def status(self) -> RunStatus:
        """Return the state of the run, with the times that the workers report."""
        workers = list(self._planned)
        reports = await asyncio.gather(*(worker.times(TIMES_S) for worker in workers))
        times: dict[str, StageTimes] = {}
        for report in reports:
            for stage, stage_times in report.items():
                times[stage] = times.get(stage, StageTimes()).plus(stage_times)
        unready = sorted(f"worker {w.name} is not ready" for w in self._served if not w.is_ready)
        unready += [f"source {name}: the run gave its worker up" for name in sorted(self.parked)]
        unready += [f"stage {name}: the run gave it up" for name in sorted(self.given_up)]
        if self._draining:
            unready.append("the run is draining")
        return RunStatus(
            run=self._plan.run,
            draining=self._draining,
            unready=unready,
            workers=[WorkerStatus(w.name, w.pid, w.is_ready, w.restarts) for w in workers],
            sources=[
                SourceStatus(
                    name=spec.name,
                    url=shown(spec.url, spec.live),
                    live=spec.live,
                    past=spec.past,
                    credit=spec.credit,
                    slots=spec.slots,
                    shared_bytes=self.shared.nbytes(spec.name),
                    hears=spec.sound > 0,
                )
                for spec in self._sources.specs()
            ],
            times=times,
            sinks=self._plan.sinks,
        )

    async def stop(self) -> list[BaseException]:
        """End all workers: after their current commit if the run is done, else at once.

        Return the errors with which the tasks of workers in this process ended.
        """
        self._stopping = True
        for worker in self._planned:
            worker.tell(Stop())
        ended = asyncio.create_task(self._all_gone())
        failed = asyncio.create_task(self._ending.failed())
        await asyncio.wait([ended, failed], timeout=STOP_S, return_when=asyncio.FIRST_COMPLETED)
        failed.cancel()
        tasks = dict(self._tasks)
        await asyncio.gather(*(self._end(worker, task) for worker, task in tasks.items()))
        await ended
        results = [task.exception() for task in tasks.values() if not task.cancelled()]
        return [error for error in results if error is not None]

    async def _all_gone(self) -> None:
        for worker in self._planned:
            await worker.gone()

    # -- a single worker

    def _keep(self, worker: WorkerHandle) -> None:
        task = asyncio.create_task(self._keep_alive(worker))
        self._tasks[worker] = task
        task.add_done_callback(self._ending.fell)

    async def _end(self, worker: WorkerHandle, task: asyncio.Task[None]) -> None:
        """End a worker and its task at once."""
        worker.kill()
        await worker.gone()
        task.cancel()
        await asyncio.wait([task])
        worker.kill()  # the task may have started another process meanwhile
        await worker.gone()
        worker.hang_up()

    def _is_wanted(self, worker: WorkerHandle) -> bool:
        return worker in self._planned and not self.given_up.issuperset(worker.hosted)

    async def _keep_alive(self, worker: WorkerHandle) -> None:
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
                await self._note_taken_over(worker)
            else:
                await self._learn_from_death(worker, exit_in_words(code))
            if self._ending.code is not None or not self._is_wanted(worker):
                return
            log.warning("worker %s ended (%s); starting another", worker.name, exit_in_words(code))
            await asyncio.sleep(worker.deaths.rest_s(random.random()))

    async def _start(self, worker: WorkerHandle) -> None:
        def spec() -> WorkerSpec:
            sources = self._sources_of(worker)
            chosen = self._sources.models()
            models = {s.name: chosen[s.name] for s in sources if s.name in chosen}
            filters = self._filters()
            return self._plan.spec(
                worker.name, worker.hosted, sources, worker.deaths, models, filters
            )

        await worker.start(spec)
        if self._draining and "decode" in worker.hosted:
            worker.tell(Drain())
        if self._stopping or not self._is_wanted(worker):
            worker.tell(Stop())

    async def _note_taken_over(self, worker: WorkerHandle) -> None:
        """Log that other runs own all sources of a worker. End the run if they own all it has,
        unless it is a slot, to which the plan of its fleet may give others.
        """
        if self._plan.slot:
            log.info("worker %s: other slots of the fleet took all its sources over", worker.name)
        else:
            log.error("worker %s: another run took all its sources over", worker.name)
            if not await self._may_own_any(self._sources.specs()):
                self._ending.end(Exit.FENCED)
        self.changed.set()

    async def _may_own_any(self, sources: Sequence[SourceSpec]) -> bool:
        """Return False if other runs took over all of these sources."""
        if not sources:
            return not self._sources.all_lost()
        for source in sources:
            if await in_thread(self._probe.may_be_ours, source.name):
                return True
        return False

    async def _learn_from_death(self, worker: WorkerHandle, how: str) -> None:
        specs = self._sources_of(worker)
        names = [spec.name for spec in specs]
        live = {spec.name for spec in specs if spec.live}
        try:
            positions, epochs = await in_thread(self._probe.positions, names, worker.hosted)
        except (StoreLost, StoreBusy):
            worker.deaths.died_unseen()
            return
        for (source, stage), at in worker.deaths.died(worker.in_hand, positions, epochs, live):
            log.error(
                "source %s frame %s: it killed its worker %d times in stage %s: set aside",
                source, at, LIMIT, stage,
            )  # fmt: skip
        if min(worker.vain_deaths, worker.deaths.fruitless) >= FRUITLESS_DEATHS:
            self._give_up(
                worker,
                f"it ended {FRUITLESS_DEATHS} times in a row without progress (last: {how})",
            )

    def _give_up(self, worker: WorkerHandle, why: str, code: Exit = Exit.SOURCE_FAILED) -> None:
        """Continue without the side stages of a worker, or without the sources of a shard.

        End the run if the worker is the only one with stages of the main path.
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

    def _park(self, worker: WorkerHandle, why: str) -> bool:
        """Continue without a worker and its sources. Return False if no other worker serves.

        No other worker gets the sources, because one of their frames may have caused the deaths.
        """
        names = [source.name for source in self._sources_of(worker)]
        others = [each for each in self._served if each is not worker]  # some may start just now
        if not others or not self._shards.close(worker.name):
            return False
        self._planned.remove(worker)
        self.parked |= dict.fromkeys(names, f"worker {worker.name}: {why}; --resume tries again")
        log.error("the run continues without %s", ", ".join(names))
        self._note_ready()
        self.changed.set()
        return True

    def _heard(self, worker: WorkerHandle, notice: ToSupervisor) -> None:
        if isinstance(notice, FramesKept):
            # A worker that served the source before it was removed and added again is outdated.
            if self._serves(worker, notice.source):
                self.shared.keep_frames(notice.source, notice.names)
        elif isinstance(notice, Ready):
            self._note_ready()
        elif isinstance(notice, Stopped):
            if any(each.name == notice.source and each.ending for each in self._sources.listed()):
                self.stopped.add(notice.source)
            self.changed.set()
        elif isinstance(notice, EndPassed):
            self.changed.set()
        elif isinstance(notice, Failed):
            code = Exit(notice.exit)
            # A shard that starts later fails alone, for example because memory is short.
            is_known_good = worker.was_ready or self._were_ready
            if is_known_good and code is not Exit.STORE:
                self._give_up(worker, notice.message, code)
            else:
                log.error("worker %s: %s", worker.name, notice.message)
                self._ending.end(code)

    def _note_ready(self) -> None:
        if all(worker.is_ready for worker in self._served if "decode" not in worker.hosted):
            self._others_ready.set()
        if all(worker.is_ready for worker in self._served):
            self._were_ready = True
            self._all_ready()


async def prepare(workers: Iterable[WorkerHandle], request: Prepare) -> None:
    """Prepare a model in all these workers at the same time.

    ModelNotTaken if a worker is not running, refuses, dies, or takes too long. The model is then
    used by none of them.
    """
    workers = list(workers)
    for worker in workers:
        if worker.pid is None:  # its next process would start with a model that it never checked
            raise ModelNotTaken(f"worker {worker.name} is starting: try again in a moment")
    replies = await asyncio.gather(
        *(worker.ask(request, type(None), PREPARE_S) for worker in workers), return_exceptions=True
    )
    for worker, error in zip(workers, replies, strict=True):
        if isinstance(error, NoReply) and error.gone:
            raise ModelNotTaken(
                f"worker {worker.name} died while it prepared the model; the run keeps its model"
            )
        if isinstance(error, NoReply):
            raise ModelNotTaken(f"model {request.model}: not ready in {PREPARE_S:.0f} s")
        if isinstance(error, RequestRefused):
            raise ModelNotTaken(f"{error}; the run keeps its model")
        if isinstance(error, BaseException):
            raise error
