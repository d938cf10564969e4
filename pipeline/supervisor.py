"""The supervisor: starts the workers, restarts the dead, kills the hung, drains, ends.

Its own death takes workers and embedded store with it (orphans.py); `--resume` then goes on.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time

from pipeline.apart import apart
from pipeline.control import (
    Drain,
    Failed,
    Finished,
    Ping,
    Ready,
    SharedWanted,
    Stop,
    ToSupervisor,
)
from pipeline.deaths import LIMIT
from pipeline.embedded import EmbeddedStore
from pipeline.errors import Exit, StoreBusy, StoreLost, StoreRefused
from pipeline.graph import with_readers
from pipeline.lookout import Lookout
from pipeline.plan import Plan
from pipeline.retry import Backoff
from pipeline.shared_files import SharedFiles
from pipeline.store import Store
from pipeline.store_watch import StoreWatch
from pipeline.worker_process import WorkerProcess, exit_in_words

log = logging.getLogger(__name__)

TICK_S = 5.0  # messages tell what happens; this finds what no message tells
SAME_STORE_TICKS = 2
DRAIN_POLL_S = 0.1
DRAIN_PATIENCE_S = 10.0
STOP_S = 10.0
FRUITLESS_DEATHS = 10


class Supervisor:
    """One run. All of it happens in the event loop of `run`."""

    def __init__(self, plan: Plan, store: Store, embedded: EmbeddedStore | None) -> None:
        self.plan = plan
        self.faults: dict[str, str] = {}
        self._url = store.url
        self._lookout = Lookout(plan, store)
        self._store_watch = StoreWatch(embedded, plan.hung_s) if embedded is not None else None
        self._shared = SharedFiles()
        self._workers = [WorkerProcess(n, h, self._heard) for n, h in plan.workers.items()]
        self._sources = {source.name: source for source in plan.sources}
        self._exit: Exit | None = None
        self._ended = asyncio.Event()
        self._changed = asyncio.Event()
        self._draining = False
        self._ending = False
        self._ready: set[str] = set()
        self._once_ready: set[str] = set()
        self._given_up: set[str] = set()
        self._others_ready = asyncio.Event()
        if all("decode" in worker.hosted for worker in self._workers):
            self._others_ready.set()
        self._away_since: float | None = None

    # -- from outside

    def drain(self) -> None:
        """Decode no further, finish what is decoded, end. Once more: end at once."""
        if self._draining:
            self._end(Exit.STOPPED_TWICE)
            return
        self._draining = True
        log.info("draining: frames that are decoded are finished; once more stops at once")
        for worker in self._workers:
            if "decode" in worker.hosted:
                worker.tell(Drain())
        self._changed.set()

    def fail(self, message: str) -> None:
        """End: something that the run needs has broken."""
        log.error("%s", message)
        self._end(Exit.SOURCE_FAILED)

    async def run(self) -> Exit:
        """Serve until all sources are done, drained, or something cannot go on."""
        tasks = [asyncio.create_task(self._keep_alive(worker)) for worker in self._workers]
        if self._store_watch is not None:
            tasks.append(asyncio.create_task(self._keep_store(self._store_watch)))
        tasks.append(asyncio.create_task(self._watch()))
        for task in tasks:
            task.add_done_callback(self._fell)
        try:
            # Not for _watch: a second Ctrl-C is obeyed even while it looks at a store that hangs.
            await self._ended.wait()
        finally:
            self._ending = True
            await self._end_workers()
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            self._shared.close()
        for result in results:
            if isinstance(result, Exception):
                raise result
        assert self._exit is not None
        if self._exit is Exit.DONE and self.faults:
            return Exit.SOURCE_FAILED
        return self._exit

    # -- the workers

    async def _keep_alive(self, worker: WorkerProcess) -> None:
        if "decode" in worker.hosted:
            await self._others_ready.wait()
        while not self._ending:
            spec = self.plan.spec(worker.name, worker.hosted, self._url, worker.deaths)
            await worker.start(spec)
            if self._draining and "decode" in worker.hosted:
                worker.tell(Drain())
            code = await worker.ended()
            self._ready.discard(worker.name)
            if self._ending or (self._draining and code == Exit.DONE):
                self._changed.set()
                return
            if code == Exit.FENCED and not await self._may_own_any():
                self.fail(f"worker {worker.name}: another run took its sources over")
            else:
                await self._learn_from_death(worker, exit_in_words(code))
            if self._exit is not None or self._given_up.issuperset(worker.hosted):
                return
            log.warning("worker %s ended (%s); starting another", worker.name, exit_in_words(code))
            if worker.quick_deaths > 1:
                await asyncio.sleep(Backoff(0.1).delay_s(worker.quick_deaths - 1, random.random()))

    async def _may_own_any(self) -> bool:
        return any(
            [await apart(self._lookout.may_be_ours, source) for source in list(self._sources)]
        )

    async def _learn_from_death(self, worker: WorkerProcess, how: str) -> None:
        try:
            found = await apart(self._lookout.places, list(self._sources), worker.hosted)
        except (StoreLost, StoreBusy):
            return
        for (source, stage), at in worker.deaths.died(worker.in_hand, *found):
            log.error(
                "source %s frame %s: it killed its worker %d times in stage %s: set aside",
                source, at, LIMIT, stage,
            )  # fmt: skip
        if min(worker.quick_deaths, worker.deaths.fruitless) >= FRUITLESS_DEATHS:
            n = FRUITLESS_DEATHS
            self._give_up(worker, f"it ended {n} times in a row without getting on (now: {how})")

    def _give_up(self, worker: WorkerProcess, why: str, code: Exit = Exit.SOURCE_FAILED) -> None:
        """Go on without the stages of a worker; end if they are on the main path."""
        stages = with_readers(self.plan.stages, worker.hosted)
        log.error("worker %s: %s", worker.name, why)
        if any(stage.main for stage in stages):
            self._end(code)
            return
        self._given_up |= {stage.name for stage in stages}
        names = ", ".join(stage.name for stage in stages)
        log.error("the run goes on without: %s", names)
        self._note_ready()
        self._changed.set()

    def _heard(self, worker: WorkerProcess, message: ToSupervisor) -> None:
        if isinstance(message, SharedWanted):
            worker.tell(*self._shared.answer(message))
        elif isinstance(message, Ready):
            self._ready.add(worker.name)
            self._once_ready.add(worker.name)
            self._note_ready()
        elif isinstance(message, Finished):
            self._changed.set()
        elif isinstance(message, Failed):
            code = Exit(message.exit)
            if worker.name in self._once_ready and code is not Exit.STORE:
                self._give_up(worker, message.message, code)
            else:
                log.error("worker %s: %s", worker.name, message.message)
                self._end(code)

    def _note_ready(self) -> None:
        waited_for = [w for w in self._workers if not self._given_up.issuperset(w.hosted)]
        if self._ready >= {w.name for w in waited_for if "decode" not in w.hosted}:
            self._others_ready.set()
        if self._store_watch is not None and self._ready >= {w.name for w in waited_for}:
            self._store_watch.settle()

    # -- until the end

    async def _keep_store(self, watch: StoreWatch) -> None:
        try:
            await watch.keep()
        except StoreRefused as error:
            log.error("%s", error)
            self._end(Exit.STORE)

    def _fell(self, task: asyncio.Task[None]) -> None:
        """A task that ends with an error ends the run; `run` raises the error."""
        if not task.cancelled() and task.exception() is not None:
            self._end(Exit.SOURCE_FAILED)

    def _end(self, code: Exit) -> None:
        if self._exit is None or code is Exit.STOPPED_TWICE:
            self._exit = code
        self._ended.set()

    async def _watch(self) -> None:
        ticks = 0
        while self._exit is None:
            timeout = DRAIN_POLL_S if self._draining else min(TICK_S, self.plan.hung_s / 4)
            try:
                await asyncio.wait_for(self._changed.wait(), timeout)
            except TimeoutError:
                ticks += 1
            self._changed.clear()
            try:
                await self._look(ticks)
                self._away_since = None
            except (StoreLost, StoreBusy) as error:
                log.debug("%s", error)
                self._note_away(error)
            except StoreRefused as error:
                log.error("%s", error)
                self._end(Exit.STORE)

    def _note_away(self, error: StoreLost | StoreBusy) -> None:
        """A store that stays away is waited for, but not while draining."""
        now = time.monotonic()
        self._away_since = self._away_since or now
        if self._draining and now - self._away_since > DRAIN_PATIENCE_S:
            log.error("%s; what is decoded stays undone, --resume goes on with it", error)
            self._end(Exit.STORE)

    async def _look(self, ticks: int) -> None:
        draining = self._draining
        drained = all(w.pid is None for w in self._workers if "decode" in w.hosted)
        sources, given_up = list(self._sources.values()), sorted(self._given_up)
        thorough = ticks % SAME_STORE_TICKS == 0
        seen = await apart(self._lookout.look, sources, given_up, draining, thorough)
        for source in seen.lost:
            seen.faults[source] = "another run took it over"
            del self._sources[source]
        for source, fault in seen.faults.items():
            if source not in self.faults:
                self.faults[source] = fault
                log.error("source %s: %s", source, fault)
        self._kill_hung(seen.pending)
        if seen.passed and (drained or not draining):
            self._end(Exit.DONE)

    def _kill_hung(self, pending: set[str]) -> None:
        now = time.monotonic()
        for worker in self._workers:
            if worker.name not in self._ready or not pending.intersection(worker.hosted):
                worker.progress_mono = now
                continue
            worker.tell(Ping())
            if now - worker.progress_mono > self.plan.hung_s:
                log.error(
                    "worker %s: no progress for %.0f s: killed", worker.name, self.plan.hung_s
                )
                worker.progress_mono = now
                worker.kill()

    async def _end_workers(self) -> None:
        for worker in self._workers:
            worker.tell(Stop())
        deadline = time.monotonic() + STOP_S
        while any(worker.pid is not None for worker in self._workers):
            if self._exit is not Exit.DONE or time.monotonic() > deadline:
                for worker in self._workers:
                    worker.kill()
            await asyncio.sleep(0.01)
