"""The supervisor of a run: changes its sources and models, looks at the store, drains, ends it.

Workers are started and restarted in workers.py. The supervisor's own death takes workers and
embedded store with it (process.py); `--resume` then goes on.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from framegate.pipeline.contracts.errors import (
    ConfigFaults,
    DataFolderRefused,
    Exit,
    ModelNotTaken,
    StoreBusy,
    StoreLost,
    StoreRefused,
)
from framegate.pipeline.contracts.spec import SourceSpec
from framegate.pipeline.engine.control import GetSharedMemory, SharedMemory
from framegate.pipeline.run.deaths import RunEnding
from framegate.pipeline.run.folder import RunSource
from framegate.pipeline.run.plan import Plan
from framegate.pipeline.run.sources import RunSources
from framegate.pipeline.run.store_probe import ProbeResult, StoreProbe
from framegate.pipeline.run.workers import Workers
from framegate.pipeline.store.admin import StoreAdmin
from framegate.pipeline.store.embedded import EmbeddedStore, StoreWatch
from framegate.pipeline.system.machine import free_bytes, take_open_files
from framegate.pipeline.system.process import in_thread
from framegate.pipeline.telemetry.run_status import RunStatus

log = logging.getLogger(__name__)

TICK_S = 5.0  # messages tell what happens; this finds what no message tells
SAME_STORE_TICKS = 2
POLL_S = 0.1  # while somebody waits: draining, or removing a source
DRAIN_PATIENCE_S = 10.0
FULL_DISK_S = 2.0  # after which a drain that waits for a disk says so
SAID_AGAIN_S = 60.0
TAKEN_OVER = "another run took it over"

SourcesListener = Callable[[list[SourceSpec]], None]


class Supervisor:
    """One run. All of it happens in the event loop of `run`."""

    def __init__(
        self, plan: Plan, store: StoreAdmin, embedded: EmbeddedStore | None, sources: RunSources
    ) -> None:
        self.plan = plan
        self.sources = sources
        self.faults = dict.fromkeys(sources.lost(), TAKEN_OVER)
        self._ending = RunEnding()
        self._probe = StoreProbe(plan, store)
        self._store_watch = StoreWatch(embedded, plan.hung_s) if embedded is not None else None
        self._workers = Workers(plan, sources, self._probe, self._ending, self._settle)
        self._listeners: list[SourcesListener] = []
        self._draining = False
        self._told_at = 0.0
        self._away_since: float | None = None
        self._changing = asyncio.Lock()
        self._choosing = asyncio.Lock()  # apart: a model takes seconds to get ready
        self._removed: dict[str, asyncio.Event] = {}

    # -- from outside

    def drain(self) -> None:
        """Decode no further, finish what is decoded, end. Once more: end at once."""
        if self._draining:
            self._ending.end(Exit.STOPPED_TWICE)
            return
        self._draining = True
        self._told_at = time.monotonic() + FULL_DISK_S
        log.info("draining: decoded frames are finished; a second Ctrl-C stops at once")
        self._workers.drain()

    def listen(self, tell: SourcesListener) -> None:
        """Have this called with the sources that there are, now and after each change."""
        self._listeners.append(tell)
        tell(self.sources.specs())

    def fail(self, message: str) -> None:
        """End: something that the run needs has broken."""
        self._ending.fail(message)

    async def add(self, sources: Sequence[RunSource], take_over: bool) -> None:
        """Serve these sources as well, all or none. Errors: RunSources.add's, ModelNotTaken."""
        self._check_takes_more()
        take_open_files(len(self.sources.names()) + len(sources))
        models: dict[str, str] = {}
        if take_over:  # they keep the models that they had: a model takes long to get ready
            models = await in_thread(self.sources.models_of, sources)
            await self._prepare(models, is_new=False)
        async with self._changing:
            self._check_takes_more()
            await in_thread(self.sources.add, sources, take_over, by_hand=True)
            names = {source.name for source in sources}
            if models != {n: m for n, m in self.sources.models().items() if n in names}:
                await in_thread(self.sources.drop, names)
                await in_thread(self.sources.release, names)
                raise ModelNotTaken("another model was chosen for them just now: try again")
            self._workers.tell_models()
            self._tell_sources()
        for source in sources:
            log.info("source %s: added", source.name)

    def _check_takes_more(self) -> None:
        if self._draining or self._ending.code is not None:
            raise ConfigFaults(["the run is ending: it takes no more sources"])

    async def remove(self, names: Sequence[str]) -> None:
        """Decode these no further, finish what is decoded, and let them go.

        ConfigFaults if there is no such source.
        """
        async with self._changing:
            await in_thread(self.sources.end, names)
            gone = [self._removed.setdefault(name, asyncio.Event()) for name in names]
            self._workers.tell_sources(decoders_only=True)
            unserved = {*self.sources.lost(), *self.sources.parked()}
            await self._let_go([name for name in names if name in unserved])
        for event in gone:
            await event.wait()

    async def use(self, model: str, names: Sequence[str]) -> None:
        """Have these sources, or all for none, served by a model from one of their frames on.

        ConfigFaults for no such source; ModelNotTaken if a stage refuses it: nothing has changed.
        """
        async with self._choosing:
            self._check_going_on()
            self.sources.check_known(names)
            asked_for = names or self.sources.names()
            await self._use(dict.fromkeys(asked_for, model), is_new=True)

    async def roll_back(self, names: Sequence[str]) -> None:
        """Have these sources, or all that had another model for none, served by that again."""
        async with self._choosing:
            had_other = [s.name for s in self.sources.listed() if s.before is not None]
            if not names and not had_other:
                raise ConfigFaults(["no source had another model"])
            await self._use(self.sources.before(names or had_other), is_new=False)

    def _check_going_on(self) -> None:
        """Raise ConfigFaults if the run ends, or if none of its stages uses models."""
        if self._draining or self._ending.code is not None:
            raise ConfigFaults(["the run is ending: it takes no other models"])
        if not any(stage.uses_models for stage in self.plan.stages):
            raise ConfigFaults(["no stage of this run uses models"])

    async def _prepare(self, models: dict[str, str], is_new: bool) -> None:
        for model in dict.fromkeys(models.values()):
            await self._workers.prepare(model, [n for n in models if models[n] == model], is_new)

    async def _use(self, models: dict[str, str], is_new: bool) -> None:
        await self._prepare(models, is_new)
        async with self._changing:
            try:
                await in_thread(self.sources.use, models)
            finally:  # whatever was written is what the next worker begins with
                self._workers.tell_models()
        for name, model in models.items():
            log.info("source %s: its model is %s now", name, model or "that of the configuration")

    async def status(self) -> RunStatus:
        """Return how the run is, with the times of its stages."""
        return await self._workers.status()

    def find_shared(self, wanted: GetSharedMemory) -> tuple[SharedMemory, int | None]:
        """Return memory that a source has already, for the HTTP process."""
        return self._workers.shared.find(wanted)

    async def run(self) -> Exit:
        """Serve until all sources are done, drained, taken over, or something cannot go on."""
        if self.sources.all_lost():
            return Exit.FENCED
        self._workers.start()
        tasks = []
        if self._store_watch is not None:
            tasks.append(asyncio.create_task(self._keep_store(self._store_watch)))
        tasks.append(asyncio.create_task(self._watch()))
        for task in tasks:
            task.add_done_callback(self._ending.fell)
        try:
            # Not for _watch: a second Ctrl-C is obeyed even while it looks at a store that hangs.
            await self._ending.wait()
        finally:
            errors = await self._workers.stop()
            for task in tasks:
                task.cancel()
            errors += [e for e in await asyncio.gather(*tasks, return_exceptions=True) if e]
            self._workers.shared.close()
        for error in errors:
            if isinstance(error, Exception):
                raise error
        assert self._ending.code is not None
        if self._ending.code is Exit.DONE and self.faults:
            return Exit.SOURCE_FAILED
        return self._ending.code

    # -- the store

    def _settle(self) -> None:
        if self._store_watch is not None:
            self._store_watch.settle()

    async def _keep_store(self, watch: StoreWatch) -> None:
        try:
            await watch.keep()
        except StoreRefused as error:
            log.error("%s", error)
            self._ending.end(Exit.STORE)

    async def _watch(self) -> None:
        ticks = 0
        while self._ending.code is None:
            waited_for = self._draining or any(s.ending for s in self.sources.specs())
            timeout = POLL_S if waited_for else min(TICK_S, self.plan.hung_s / 4)
            try:
                await asyncio.wait_for(self._workers.changed.wait(), timeout)
            except TimeoutError:
                ticks += 1
            self._workers.changed.clear()
            try:
                await self._look(ticks)
                self._away_since = None
            except (StoreLost, StoreBusy) as error:
                log.debug("%s", error)
                self._note_away(error)
            except StoreRefused as error:
                log.error("%s", error)
                self._ending.end(Exit.STORE)

    def _note_away(self, error: StoreLost | StoreBusy) -> None:
        """A store that stays away is waited for, but not while draining."""
        now = time.monotonic()
        self._away_since = self._away_since or now
        if self._draining and now - self._away_since > DRAIN_PATIENCE_S:
            log.error("%s; decoded frames stay unfinished; --resume continues with them", error)
            self._ending.end(Exit.STORE)

    async def _look(self, ticks: int) -> None:
        draining, drained = self._draining, self._workers.drained
        specs, workers = self.sources.specs(), self._workers
        given_up = sorted(workers.given_up)
        thorough = ticks % SAME_STORE_TICKS == 0
        seen = await in_thread(self._probe.look, specs, given_up, draining, thorough)
        async with self._changing:
            self._note_parked()
            now = self.sources.specs()
            generations = {spec.name: spec.generation for spec in now}
            same = {s.name for s in specs if generations.get(s.name) == s.generation}
            self._note_faults(seen, same)
            self._workers.kill_hung(seen.pending)
            for name in sorted(seen.through & same):
                self._workers.shared.end(name)
            removed = {spec.name for spec in now if spec.ending and spec.name in same}
            removed &= {*seen.through, *seen.lost}
            if removed:
                await self._let_go(sorted(removed))
            elif self.sources.all_lost():
                self._ending.end(Exit.FENCED)
            elif self.sources.parked() and not now:
                self._ending.end(Exit.SOURCE_FAILED)
            elif seen.passed and len(same) == len(now) and self._may_end(drained):
                self._ending.end(Exit.DONE)
        if self._draining and self._ending.code is None and time.monotonic() > self._told_at:
            await self._tell_full_disk()

    async def _tell_full_disk(self) -> None:
        """A store that answers, and whose disk is full, is waited for: a drain may last."""
        self._told_at = time.monotonic() + SAID_AGAIN_S
        fault = await in_thread(self._probe.write_fault)
        if fault is not None:
            free = f"{free_bytes(Path(self.plan.folder)) / 1e6:.1f} MB free in {self.plan.folder}"
            log.warning(
                "the drain waits: %s%s; it continues when there is space; a second Ctrl-C stops at "
                "once, and --resume continues",
                fault,
                f"; {free}" if self._store_watch is not None else "",
            )

    def _note_faults(self, seen: ProbeResult, same: set[str]) -> None:
        """same: sources that are still those that were looked at."""
        for name in same.intersection(seen.lost):
            seen.faults[name] = TAKEN_OVER
            self.sources.lose(name)
        for name in same & seen.faults.keys():
            if name not in self.faults:
                self.faults[name] = seen.faults[name]
                log.error("source %s: %s", name, seen.faults[name])

    def _note_parked(self) -> None:
        parked = self._workers.parked
        self.sources.park(parked)
        for name, why in parked.items():
            if name not in self.faults:
                self.faults[name] = why
                log.error("source %s: %s", name, why)

    def _may_end(self, drained: bool) -> bool:
        return drained if self._draining else not self.sources.stays

    # -- other sources

    def _tell_sources(self) -> None:
        self._workers.tell_sources()
        for tell in self._listeners:
            tell(self.sources.specs())

    async def _let_go(self, names: list[str]) -> None:
        """Let sources go, of which all that was decoded is done."""
        try:
            await in_thread(self.sources.drop, names)
        except DataFolderRefused as error:
            log.error("%s; trying again", error)
            return
        self._workers.tell_models()
        self._tell_sources()  # before others may have them: a worker that knows better is no zombie
        await in_thread(self.sources.release, names, removed=True)
        for name in names:
            self._workers.forget(name)
            self.faults.pop(name, None)
            if name in self._removed:
                self._removed.pop(name).set()
            log.info("source %s: removed", name)
