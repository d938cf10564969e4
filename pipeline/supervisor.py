"""The supervisor: starts the workers, restarts the dead, kills the hung, drains, ends.

Its own death takes workers and embedded store with it (orphans.py); `--resume` then goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time

from pipeline import records
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
from pipeline.feed import DecodeState
from pipeline.pending import pending_stages
from pipeline.plan import Plan
from pipeline.records import Position
from pipeline.retry import Backoff
from pipeline.shared_files import SharedFiles
from pipeline.store import Store
from pipeline.worker_process import WorkerProcess, exit_in_words

log = logging.getLogger(__name__)

TICK_S = 5.0  # messages tell what happens; this finds what no message tells
SAME_STORE_TICKS = 2
DRAIN_POLL_S = 0.1
DRAIN_PATIENCE_S = 10.0


class Supervisor:
    """One run. All of it happens in the event loop of `run`."""

    def __init__(self, plan: Plan, store: Store, embedded: EmbeddedStore | None) -> None:
        self.plan = plan
        self.faults: dict[str, str] = {}
        self._store = store
        self._embedded = embedded
        self._shared = SharedFiles()
        self._workers = [WorkerProcess(n, h, self._heard) for n, h in plan.workers.items()]
        self._sources = {source.name: source for source in plan.sources}
        self._exit: Exit | None = None
        self._changed = asyncio.Event()
        self._draining = False
        self._ending = False
        self._ready: set[str] = set()
        self._others_ready = asyncio.Event()
        if all("decode" in worker.hosted for worker in self._workers):
            self._others_ready.set()
        self._pending: set[str] = set()
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

    async def run(self) -> Exit:
        """Serve until all sources are done, drained, or something cannot go on."""
        tasks = [asyncio.create_task(self._keep_alive(worker)) for worker in self._workers]
        if self._embedded is not None:
            tasks.append(asyncio.create_task(self._keep_store()))
        for task in tasks:
            task.add_done_callback(self._fell)
        try:
            await self._watch()
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
            spec = self.plan.spec(worker.name, worker.hosted, self._store.url, worker.deaths)
            await worker.start(spec)
            if self._draining and "decode" in worker.hosted:
                worker.tell(Drain())
            code = await worker.ended()
            self._ready.discard(worker.name)
            if self._ending or (self._draining and code == Exit.DONE):
                self._changed.set()
                return
            if code == Exit.FENCED and not any([await self._may_be_ours(s) for s in self._sources]):
                log.error("worker %s: another run took its sources over", worker.name)
                self._end(Exit.SOURCE_FAILED)
                return
            if self._exit is not None:
                return
            log.warning("worker %s ended (%s); starting another", worker.name, exit_in_words(code))
            await self._learn_from_death(worker)
            if worker.quick_deaths > 1:
                await asyncio.sleep(Backoff(0.1).delay_s(worker.quick_deaths - 1, random.random()))

    async def _may_be_ours(self, source: str) -> bool:
        """Whether no other run is known to own the source; a store that is away knows nothing."""
        try:
            return await self._is_ours(source)
        except (StoreLost, StoreBusy):
            return True

    async def _is_ours(self, source: str) -> bool:
        return await asyncio.to_thread(self._store.owner, source) == self.plan.run

    async def _learn_from_death(self, worker: WorkerProcess) -> None:
        positions: dict[tuple[str, str], Position] = {}
        epochs: dict[str, int] = {}
        try:
            for source in self._sources:
                epochs[source] = await asyncio.to_thread(self._store.epoch, source)
                found = await asyncio.to_thread(self._store.positions, source, worker.hosted)
                positions |= {(source, stage): at for stage, at in found.items()}
        except (StoreLost, StoreBusy):
            return
        for (source, stage), at in worker.deaths.died(worker.in_hand, positions, epochs):
            log.error(
                "source %s frame %s: it killed its worker %d times in stage %s: set aside",
                source, at, LIMIT, stage,
            )  # fmt: skip

    def _heard(self, worker: WorkerProcess, message: ToSupervisor) -> None:
        if isinstance(message, SharedWanted):
            worker.tell(*self._shared.answer(message))
        elif isinstance(message, Ready):
            self._ready.add(worker.name)
            if self._ready >= {w.name for w in self._workers if "decode" not in w.hosted}:
                self._others_ready.set()
            if len(self._ready) == len(self._workers):
                self._settle_store()
        elif isinstance(message, Finished):
            if message.fault is not None and message.source not in self.faults:
                self.faults[message.source] = message.fault
                log.error("source %s: %s", message.source, message.fault)
            self._changed.set()
        elif isinstance(message, Failed):
            log.error("worker %s: %s", worker.name, message.message)
            self._end(Exit(message.exit))

    # -- the store

    async def _keep_store(self) -> None:
        assert self._embedded is not None
        while not self._ending:
            await self._embedded.ended()
            if self._ending:
                return
            log.warning("the embedded store ended; starting it again")
            try:
                self._embedded.start()
                self._settle_store()
            except StoreRefused as error:
                log.error("%s", error)
                self._end(Exit.STORE)
                return

    def _settle_store(self) -> None:
        if self._embedded is not None:
            with contextlib.suppress(StoreLost, StoreBusy):
                self._embedded.settle()

    # -- until the end

    def _fell(self, task: asyncio.Task[None]) -> None:
        """A task that ends with an error ends the run; `run` raises the error."""
        if not task.cancelled() and task.exception() is not None:
            self._end(Exit.SOURCE_FAILED)

    def _end(self, code: Exit) -> None:
        if self._exit is None or code is Exit.STOPPED_TWICE:
            self._exit = code
        self._changed.set()

    async def _watch(self) -> None:
        ticks = 0
        while self._exit is None:
            timeout = DRAIN_POLL_S if self._draining else min(TICK_S, self.plan.hung_s / 4)
            try:
                await asyncio.wait_for(self._changed.wait(), timeout)
            except TimeoutError:
                ticks += 1
            self._changed.clear()
            if self._exit is not None:
                return
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
        lost = [source for source in self._sources if not await self._is_ours(source)]
        if lost or ticks % SAME_STORE_TICKS == 0:
            await self._check_store()
        for source in lost:
            self.faults[source] = "another run took it over"
            log.error("source %s: another run took it over", source)
            del self._sources[source]
        names = [stage.name for stage in self.plan.stages]
        found = await asyncio.to_thread(self._store.standings, list(self._sources), names)
        self._pending.clear()
        passed = [self._has_passed(source, *found[source]) for source in self._sources]
        self._kill_hung()
        drained = self._draining and all(
            worker.pid is None for worker in self._workers if "decode" in worker.hosted
        )
        if all(passed) and (drained or not self._draining):
            self._end(Exit.DONE)

    async def _check_store(self) -> None:
        if not await asyncio.to_thread(self._store.same, self.plan.identity):
            raise StoreRefused(
                "the store was emptied or replaced while the run went on; nothing was restarted"
            )

    def _has_passed(self, source: str, at: dict[str, Position], state: bytes | None) -> bool:
        """Whether all stages have passed all that is or will be decoded of a source."""
        decoded = records.decode(state, DecodeState) if state else DecodeState()
        done = decoded.done and decoded.run == self.plan.run
        self._pending |= pending_stages(self.plan.stages, self._sources[source], at, done)
        return (self._draining or done) and min(at.values()) >= at["decode"]

    def _kill_hung(self) -> None:
        now = time.monotonic()
        for worker in self._workers:
            if worker.name not in self._ready or not self._pending & set(worker.hosted):
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
        at_once = self._exit is not Exit.DONE
        for worker in self._workers:
            if at_once:
                worker.kill()
            else:
                worker.tell(Stop())
        deadline = time.monotonic() + 10
        while any(worker.pid is not None for worker in self._workers):
            await asyncio.sleep(0.01)
            if time.monotonic() > deadline:
                for worker in self._workers:
                    worker.kill()
