"""The supervisor of a run: it changes sources and models, watches the store, and ends the run.

`keep_workers` starts and restarts the workers. When the supervisor dies, its workers and the
embedded store die with it (`system/process.py`); `--resume` then continues the run.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path

from framegate.pipeline.config.config import Config
from framegate.pipeline.config.events import rules_to_mute
from framegate.pipeline.config.sinks import episode_sinks
from framegate.pipeline.contracts.errors import (
    ConfigFaults,
    DataFolderRefused,
    Exit,
    ModelNotTaken,
    StoreBusy,
    StoreLost,
    StoreRefused,
)
from framegate.pipeline.contracts.live_config import ConfigRequest, EditableConfig, GetConfig
from framegate.pipeline.contracts.object_filters import (
    AddFilter,
    FilterList,
    FilterRequest,
    GetFilters,
)
from framegate.pipeline.contracts.spec import PaceName, SourceSpec
from framegate.pipeline.engine.control_messages import (
    GetSharedMemory,
    SharedMemory,
)
from framegate.pipeline.fleet.cost_meter import WorkerUse
from framegate.pipeline.run.folder import RunSource
from framegate.pipeline.run.keep_workers import Workers
from framegate.pipeline.run.live_config import RunConfig
from framegate.pipeline.run.plan import Plan
from framegate.pipeline.run.run_ending import RunEnding
from framegate.pipeline.run.source_forms import source_spec
from framegate.pipeline.run.sources import RunSources
from framegate.pipeline.run.store_probe import ProbeResult, StoreProbe
from framegate.pipeline.store.admin import StoreAdmin
from framegate.pipeline.store.embedded import EmbeddedStore, StoreWatch
from framegate.pipeline.system.machine import free_bytes, take_open_files
from framegate.pipeline.system.process import in_thread
from framegate.pipeline.telemetry.run_status import RunStatus

log = logging.getLogger(__name__)

TICK_S = 5.0  # interval of looks at the store for changes that no message reports
SAME_STORE_TICKS = 2
POLL_S = 0.1  # the same interval while a user waits: draining, or removing a source
DRAIN_PATIENCE_S = 10.0
FULL_DISK_S = 2.0  # a drain that waits for a full disk is logged after this time
FULL_DISK_AGAIN_S = 60.0
TAKEN_OVER = "another run took it over"

SourcesListener = Callable[[list[SourceSpec]], None]


class Supervisor:
    """The supervisor of a run. All methods run in the event loop of `run`."""

    def __init__(
        self,
        plan: Plan,
        store: StoreAdmin,
        embedded: EmbeddedStore | None,
        sources: RunSources,
        config: RunConfig,
        pace: PaceName | None = None,
    ) -> None:
        """Prepare the supervisor. pace: of all files; None: each has its own"""
        self.plan = plan
        self.sources = sources
        self.pace = pace
        self._config = config
        self._followers: list[Callable[[Config], None]] = []
        self.faults = dict.fromkeys(sources.lost(), TAKEN_OVER)
        self._ending = RunEnding()
        self._probe = StoreProbe(plan, store)
        self._store_watch: StoreWatch | None = None
        if embedded is not None:
            self._store_watch = StoreWatch(embedded, plan.hung_s)
        self._workers = Workers(plan, sources, self._probe, self._ending, self._settle)
        self._listeners: list[SourcesListener] = []
        self._draining = False
        self._hint = ""
        self._next_disk_look = 0.0  # monotonic time of the next look for a full disk
        self._unreachable_since: float | None = None
        self._changing = asyncio.Lock()
        self._choosing = asyncio.Lock()  # separate, because preparing a model takes seconds
        self._removed: dict[str, asyncio.Event] = {}
        self._handed_over: set[str] = set()

    # -- requests

    def drain(self, hint: str = "") -> None:
        """Stop decoding, finish the decoded frames, then end. A second call ends at once.

        hint  words for the log about how to end at once
        """
        if self._draining:
            self._ending.end(Exit.STOPPED_TWICE)
            return
        self._draining = True
        self._next_disk_look = time.monotonic() + FULL_DISK_S
        self._hint = hint
        log.info("finishing decoded frames%s", hint)
        self._workers.drain()

    def listen(self, listener: SourcesListener) -> None:
        """Call `listener` with the current sources, now and after each change."""
        self._listeners.append(listener)
        listener(self.sources.specs())

    def follow_config(self, follower: Callable[[Config], None]) -> None:
        """Call `follower` with the configuration after each change."""
        self._followers.append(follower)

    def give_way(self, message: str) -> None:
        """End the run because another instance of its slot has its sources."""
        log.error("%s", message)
        self._ending.end(Exit.FENCED)

    def fail(self, message: str) -> None:
        """End the run with an error, because something that it needs is broken."""
        self._ending.fail(message)

    async def add(self, sources: Sequence[RunSource], take_over: bool) -> None:
        """Add all these sources or none. ModelNotTaken, and the errors of RunSources.add."""
        self._check_accepts_sources()
        take_open_files(len(self.sources.names()) + len(sources))
        models: dict[str, str] = {}
        if take_over:
            # The sources keep their models. A model takes seconds to prepare, so this is done
            # before the lock is taken.
            models = await in_thread(self.sources.models_of, sources)
            await self._prepare(models, is_new=False)
        async with self._changing:
            self._check_accepts_sources()
            await in_thread(self.sources.add, sources, take_over, by_hand=True)
            names = {source.name for source in sources}
            chosen = self.sources.models()
            if models != {name: model for name, model in chosen.items() if name in names}:
                await in_thread(self.sources.drop, names)
                await in_thread(self.sources.release, names)
                raise ModelNotTaken(
                    "the model of these sources has changed meanwhile; add them again"
                )
            self._workers.tell_models()
            self._tell_sources()
        for source in sources:
            log.info("source %s: added", source.name)

    @property
    def is_ending(self) -> bool:
        """Return whether the run drains or has an exit code; it then accepts no changes."""
        return self._draining or self._ending.code is not None

    def _check_accepts_sources(self) -> None:
        if self.is_ending:
            raise ConfigFaults(["the run is ending: it takes no more sources"])

    def close_cameras(self, names: Collection[str]) -> None:
        """Close the connections of these cameras, and allow those of all others."""
        self._workers.close_cameras(sorted(names))

    async def hand_over(self, names: Sequence[str]) -> None:
        """Remove these sources like `remove`, but for another slot: the store keeps their data."""
        self._handed_over |= set(names)
        await self.remove(names, hands_over=True)

    async def remove(self, names: Sequence[str], hands_over: bool = False) -> None:
        """Stop decoding these sources, finish their decoded frames, and release them.

        ConfigFaults if there is no such source. hands_over: see `hand_over`
        """
        async with self._changing:
            await in_thread(self.sources.end, names, hands_over)
            removed = [self._removed.setdefault(name, asyncio.Event()) for name in names]
            self._workers.tell_sources(decoders_only=True)
            unserved = {*self.sources.lost(), *self.sources.parked()}
            await self._release([name for name in names if name in unserved])
        for event in removed:
            await event.wait()

    async def use(self, model: str, names: Sequence[str]) -> None:
        """Serve these sources, or all if there are no names, with another model from now on.

        ConfigFaults if there is no such source; ModelNotTaken if a stage refuses the model. In both
        cases nothing has changed.
        """
        async with self._choosing:
            self._check_accepts_models()
            self.sources.check_known(names)
            names = names or self.sources.names()
            await self._use(dict.fromkeys(names, model), is_new=True)

    async def roll_back(self, names: Sequence[str]) -> None:
        """Serve these sources, or all if there are no names, with their previous model again."""
        async with self._choosing:
            had_other = [s.name for s in self.sources.listed() if s.before is not None]
            if not names and not had_other:
                raise ConfigFaults(["no source had another model"])
            await self._use(self.sources.before(names or had_other), is_new=False)

    def _check_accepts_models(self) -> None:
        if self.is_ending:
            raise ConfigFaults(["the run is ending: it takes no other models"])
        if not any(stage.uses_models for stage in self.plan.stages):
            raise ConfigFaults(["no stage of this run uses models"])

    async def _prepare(self, models: dict[str, str], is_new: bool) -> None:
        for model in dict.fromkeys(models.values()):
            names = [name for name, chosen in models.items() if chosen == model]
            await self._workers.prepare(model, names, is_new)

    async def _use(self, models: dict[str, str], is_new: bool) -> None:
        await self._prepare(models, is_new)
        async with self._changing:
            try:
                await in_thread(self.sources.use, models)
            finally:  # even after an error: the next worker starts with the models in run.json
                self._workers.tell_models()
        for name, model in models.items():
            log.info("source %s: its model is %s now", name, model or "that of the configuration")

    async def answer_filters(self, request: FilterRequest) -> FilterList:
        """Change the object filters from now on, if asked to; return them. ConfigFaults."""
        if isinstance(request, GetFilters):
            return FilterList(list(self.sources.filters()))
        if self.is_ending:
            raise ConfigFaults(["the run is ending: its filters cannot be changed"])
        async with self._changing:
            if isinstance(request, AddFilter):
                add = self.sources.add_filter
                added = await in_thread(add, request.filter, request.replaces)
                log.info("filter %s: added", added.name)
            else:
                await in_thread(self.sources.remove_filter, request.name)
                log.info("filter %s: removed", request.name)
            self._workers.tell_filters()
        return FilterList(list(self.sources.filters()))

    async def answer_config(self, request: ConfigRequest) -> EditableConfig:
        """Change the configuration from now on, if asked to; return it. ConfigFaults."""
        if not isinstance(request, GetConfig) and self.is_ending:
            raise ConfigFaults(["the run is ending: its configuration cannot be changed"])
        async with self._changing:
            if await in_thread(self._config.take, request):
                self._use_config()
            return await in_thread(self._config.shown, self.sources.names())

    def _use_config(self) -> None:
        """Use what can change in an active run."""
        config = self._config
        for stage, options in config.new_options().items():
            self._workers.set_options(stage, options)
        spec_of = partial(source_spec, config.for_sources(), self.pace)
        before = self.sources.specs()
        self.sources.configure(config.used.filters, rules_to_mute(config.used.events), spec_of)
        self._workers.tell_filters()
        if self.sources.specs() != before:
            self._tell_sources()
        self._workers.name_sinks(episode_sinks(config.used.sinks))
        for follower in self._followers:
            follower(config.used)
        log.info("configuration: changed")

    async def status(self) -> RunStatus:
        """Return the state of the run, with the times of its stages."""
        return await self._workers.status()

    def uses(self) -> list[WorkerUse]:
        """Return the CPU time of each worker process, and its sources."""
        return self._workers.uses()

    def find_shared(self, wanted: GetSharedMemory) -> tuple[SharedMemory, int | None]:
        """Return existing shared memory of a source, for the HTTP process."""
        return self._workers.shared.find(wanted)

    async def run(self) -> Exit:
        """Run until all sources are done, drained or taken over, or the run cannot continue."""
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
            # We do not wait for _watch, so that a second Ctrl-C works while the store hangs.
            await self._ending.wait()
        finally:
            errors = await self._workers.stop()
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            errors += [result for result in results if result is not None]
            self._workers.shared.close()
        for error in errors:
            if isinstance(error, Exception):
                raise error
        assert self._ending.code is not None
        is_partial = bool(self.faults or self._workers.given_up)
        if self._ending.code is Exit.DONE and is_partial:
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
            timeout = min(TICK_S, self.plan.hung_s / 4)
            if self._draining or any(spec.ending for spec in self.sources.specs()):
                timeout = POLL_S
            try:
                await asyncio.wait_for(self._workers.changed.wait(), timeout)
            except TimeoutError:
                ticks += 1
            self._workers.changed.clear()
            try:
                await self._look(ticks)
                self._unreachable_since = None
            except (StoreLost, StoreBusy) as error:
                log.debug("%s", error)
                self._note_unreachable(error)
            except StoreRefused as error:
                log.error("%s", error)
                self._ending.end(Exit.STORE)

    def _note_unreachable(self, error: StoreLost | StoreBusy) -> None:
        """Wait for a store that is away; a draining run ends after DRAIN_PATIENCE_S."""
        now = time.monotonic()
        self._unreachable_since = self._unreachable_since or now
        if self._draining and now - self._unreachable_since > DRAIN_PATIENCE_S:
            log.error("%s; decoded frames stay unfinished; --resume continues with them", error)
            self._ending.end(Exit.STORE)

    async def _look(self, ticks: int) -> None:
        # The probe runs in a thread for a while. `was_drained` is read before it, because only
        # then does the probe see the last frames; afterwards we act only on the sources that are
        # still the same as those that it saw.
        was_drained = self._workers.drained
        stopped = set(self._workers.stopped)
        specs = self.sources.specs()
        given_up = sorted(self._workers.given_up)
        checks_store = ticks % SAME_STORE_TICKS == 0
        probe = await in_thread(self._probe.look, specs, given_up, self._draining, checks_store)
        async with self._changing:
            self._note_parked()
            now = self.sources.specs()
            generations = {spec.name: spec.generation for spec in now}
            same = {spec.name for spec in specs if generations.get(spec.name) == spec.generation}
            lost_before = self.sources.lost()
            self._note_faults(probe, same)
            self._workers.kill_hung(probe.pending)
            for name in sorted(probe.through & same):
                self._workers.shared.end(name)
            removed = {spec.name for spec in now if spec.ending and spec.name in same}
            removed &= {*probe.through, *probe.lost} | (stopped & probe.idle)
            is_all_done = probe.passed and len(same) == len(now)
            may_end = not self.sources.stays
            if self._draining:
                may_end = was_drained
            if removed:
                await self._release(sorted(removed))
            elif self.sources.all_lost() and not self.plan.slot:
                self._ending.end(Exit.FENCED)
            elif self.sources.parked() and not now:
                self._ending.end(Exit.SOURCE_FAILED)
            elif is_all_done and may_end:
                self._ending.end(Exit.DONE)
            if self.sources.lost() != lost_before and self._ending.code is None:
                self._tell_listeners()  # the new run of a source sends its episodes
        is_active = self._ending.code is None
        if self._draining and is_active and time.monotonic() > self._next_disk_look:
            await self._report_full_disk()

    async def _report_full_disk(self) -> None:
        """Log if the drain waits for a full disk; it waits as long as the store answers."""
        self._next_disk_look = time.monotonic() + FULL_DISK_AGAIN_S
        fault = await in_thread(self._probe.write_fault)
        if fault is None:
            return
        if self._store_watch is not None:
            free_mb = free_bytes(Path(self.plan.folder)) / 1e6
            fault = f"{fault}; {free_mb:.1f} MB free in {self.plan.folder}"
        how_to_end = ""
        if self._hint:
            how_to_end = f"{self._hint}, and --resume continues"
        log.warning(
            "the drain waits: %s; it continues when there is space%s",
            fault,
            how_to_end,
        )

    def _note_faults(self, probe: ProbeResult, same: set[str]) -> None:
        """Record the faults of sources. same: names of those that did not change meanwhile"""
        for spec in self.sources.specs():
            if spec.name in same.intersection(probe.lost):
                self._note_taken_over(spec, probe.faults)
        for name in same & probe.faults.keys():
            self._note_fault(name, probe.faults[name])

    def _note_taken_over(self, spec: SourceSpec, faults: dict[str, str]) -> None:
        """Lose a source that another run owns. That is a fault unless a fleet moves its sources."""
        self.sources.lose(spec.name)
        if not self.plan.slot:
            faults[spec.name] = TAKEN_OVER
        elif spec.ending:
            log.warning(
                "source %s: its new slot took it over before this one had finished the decoded "
                "frames",
                spec.name,
            )
        else:
            log.info("source %s: another slot of the fleet took it over", spec.name)

    def _note_parked(self) -> None:
        parked = self._workers.parked
        self.sources.park(parked)
        for name, reason in parked.items():
            self._note_fault(name, reason)

    def _note_fault(self, name: str, fault: str) -> None:
        if name not in self.faults:
            self.faults[name] = fault
            log.error("source %s: %s", name, fault)

    # -- changed sources

    def _tell_sources(self) -> None:
        self._workers.tell_sources()
        self._tell_listeners()

    def _tell_listeners(self) -> None:
        for listener in self._listeners:
            listener(self.sources.specs())

    async def _release(self, names: list[str]) -> None:
        """Release sources whose decoded frames are all finished."""
        try:
            await in_thread(self.sources.drop, names)
        except DataFolderRefused as error:
            log.error("%s; trying again", error)
            return
        self._workers.tell_models()
        # Workers learn it before another run may claim the sources: a worker that still served one
        # would be fenced and end.
        self._tell_sources()
        forgotten = [name for name in names if name not in self._handed_over]
        kept = [name for name in names if name in self._handed_over]
        await in_thread(self.sources.release, forgotten, removed=True)
        await in_thread(self.sources.release, kept)
        self._handed_over -= set(kept)
        for name in names:
            self._workers.forget(name)
            self.faults.pop(name, None)
            if name in self._removed:
                self._removed.pop(name).set()
            log.info("source %s: removed", name)
