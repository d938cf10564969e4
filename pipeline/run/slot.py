"""A slot of a fleet: it follows the plan in the store, and makes its run serve what that names.

The plan decides which slot serves a source, and the fencing of the store decides which process
does. So a slot never needs to know whether another slot is alive. A sign of life only shortens the
wait for a predecessor that still finishes its frames.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from enum import Enum, auto
from typing import Final
from urllib.parse import urlsplit

from framegate.pipeline.config.sources import read_sources
from framegate.pipeline.contracts.errors import (
    ConfigFaults,
    FramegateError,
    StoreBusy,
    StoreLost,
    StoreRefused,
    TakenOver,
)
from framegate.pipeline.contracts.redaction import redacted, shown
from framegate.pipeline.fleet.cost_meter import CostMeter, Reading
from framegate.pipeline.fleet.fleet_store import FleetStore, SlotSign, SourceOwner
from framegate.pipeline.fleet.plan import FleetPlan, FleetSource
from framegate.pipeline.fleet.recording_places import RecordingPlace, note_places
from framegate.pipeline.run.folder import RunSource
from framegate.pipeline.run.source_forms import file_faults, file_identity, run_source
from framegate.pipeline.run.supervisor import Supervisor
from framegate.pipeline.system.ports import own_address
from framegate.pipeline.system.process import in_thread
from framegate.pipeline.web.port import outside_address

log = logging.getLogger(__name__)

LOOK_S: Final = 1.0  # between two looks at the plan
HURRY_S: Final = 0.1  # the same while a source is handed over
CLOSE_CAMERAS_S: Final = 10.0  # a slot without its store keeps its cameras this long
HAND_OVER_S: Final = 10.0  # a slot that is alive gets this long to finish its decoded frames
NOTE_S: Final = 10.0  # between two notes of the times that are recorded here
MEASURE_S: Final = 15.0  # between two readings of the CPU time of its workers
AWAY_ERRORS: Final = (StoreLost, StoreBusy)
STORE_ERRORS: Final = (*AWAY_ERRORS, StoreRefused)


class NextStep(Enum):
    """The next step of a slot for a source that the plan gives it and that it does not serve."""

    CLAIM = auto()
    WAIT = auto()  # for its predecessor, or for a newer plan
    REFUSE = auto()  # a run that is no slot owns it


def next_step(
    owner: SourceOwner, run: str, since: int, is_alive: bool, waited_s: float
) -> NextStep:
    """Decide the next step of a slot for a source.

    run       run id of this instance of the slot
    since     version of the plan that gave it the source
    is_alive  whether the owner is a slot that gave a recent sign of life
    waited_s  time for which the slot has waited for the owner, in seconds

    An owner with the same `since` is an older instance of this slot.
    """
    if owner.since > since:
        return NextStep.WAIT
    if owner.run in ("", run):
        return NextStep.CLAIM
    if not owner.since:
        return NextStep.REFUSE
    if owner.since < since and is_alive and waited_s < HAND_OVER_S:
        return NextStep.WAIT
    return NextStep.CLAIM


class SlotFollower:
    """Follows the plan of the fleet for a run. All methods run in its event loop."""

    def __init__(
        self,
        slot: str,
        supervisor: Supervisor,
        listening: socket.socket | None,
        take_fleet: Callable[[Collection[str]], None] | None = None,
    ) -> None:
        """Keep the parts.

        slot        name of the slot that the run of this supervisor is
        listening   socket of its HTTP port; None if it is off
        take_fleet  takes the names of all sources of the fleet after each change
        """
        self._take_fleet = take_fleet
        self._slot = slot
        self._supervisor = supervisor
        self._listening = listening
        self._http: str | None = None  # as in SlotSign; None: it is not known so far
        self._places: dict[str, RecordingPlace] = {}
        self._noted_mono = -NOTE_S
        self._meter = CostMeter()
        self._measured_mono = -MEASURE_S
        self._run = supervisor.plan.run
        self._store: FleetStore | None = None
        self._plan = FleetPlan()
        self._refused: dict[str, str] = {}
        self._waits_since: dict[str, float] = {}
        self._handing_over: dict[str, asyncio.Task[None]] = {}
        self._has_slot = False
        self._fault = ""  # as in SlotSign
        self._has_warned = False  # that the store has no plan
        self._answered_mono = time.monotonic()  # the last answer of the store
        self._is_away = False  # whether the last look failed
        self._closed_cameras: set[str] = set()  # cameras that this host closed

    async def run(self) -> None:
        """Follow the plan until cancelled. A failure ends the run."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._follow())
                tasks.create_task(self._sign_on())
                tasks.create_task(self._watch_store())
        except Exception:
            log.exception("the slot cannot follow the plan of its fleet")
            self._supervisor.fail("the slot cannot follow the plan of its fleet")
        finally:
            await self._end()

    async def _follow(self) -> None:
        while True:
            try:
                await self._look()
                self._note_answer()
            except StoreRefused as error:  # it answers, so no other host needs the cameras
                self._note_answer()
                self._note_fault(str(error))
            except AWAY_ERRORS as error:
                log.debug("fleet: %s", error)
                self._is_away = True
            pause_s = LOOK_S
            if self._handing_over or self._waits_for_predecessor():
                pause_s = HURRY_S
            await asyncio.sleep(pause_s)

    def _waits_for_predecessor(self) -> bool:
        """Return whether a source may soon be free. One that waits longer waits for a plan."""
        now = time.monotonic()
        return any(now - began < HAND_OVER_S for began in self._waits_since.values())

    async def _end(self) -> None:
        for task in self._handing_over.values():
            task.cancel()
        store = self._store
        if store is not None:
            with contextlib.suppress(*STORE_ERRORS, TimeoutError, asyncio.CancelledError):
                await asyncio.wait_for(in_thread(self._sign_off, store), LOOK_S)
                await asyncio.wait_for(self._note_places(), LOOK_S)
            store.close()

    def _sign_off(self, store: FleetStore) -> None:
        store.release_slot(self._slot, self._run)
        store.sign_off(self._slot, self._run)

    async def _look(self) -> None:
        if self._store is None:
            self._store = await in_thread(FleetStore, self._supervisor.plan.store)
        if not await self._is_newest(self._store):
            return
        await self._read_plan(self._store)
        self._note_answer()  # before cameras are connected again
        wanted = self._plan.sources_of(self._slot)
        if self._closed_cameras:
            await self._take_up(self._store, wanted)
        await self._release(wanted)
        if not self._supervisor.is_ending:
            await self._claim(self._store, wanted)
        if self._http is not None and time.monotonic() - self._noted_mono >= NOTE_S:
            await self._note_places()
        if time.monotonic() - self._measured_mono >= MEASURE_S:
            await self._measure(self._store)

    async def _is_newest(self, store: FleetStore) -> bool:
        """Return whether this is the newest instance of its slot; otherwise end the run."""
        if self._has_slot and await in_thread(store.has_slot, self._slot, self._run):
            return True
        name = f"host {socket.gethostname()}, data {self._supervisor.plan.folder}"
        try:
            await in_thread(store.claim_slot, self._slot, self._run, name, not self._has_slot)
        except TakenOver as error:
            self._supervisor.give_way(str(error))
            return False
        self._has_slot = True
        return True

    async def _read_plan(self, store: FleetStore) -> None:
        """Take a newer plan. One that cannot be read leaves the plan in force."""
        try:
            plan = await in_thread(store.plan, self._plan.version)
        except StoreRefused as error:
            self._note_fault(str(error))
            return
        self._fault = ""
        if plan is not None:
            self._take(plan)
        elif not self._plan.version and not self._has_warned:
            self._has_warned = True
            log.warning(
                "slot %s: %s has no plan of a fleet, so the slot waits; framegate fleet apply "
                "fleet.toml --store URL writes one, to the same server and database",
                self._slot,
                shown(self._supervisor.plan.store),
            )

    def _note_fault(self, fault: str) -> None:
        """Log why newer plans cannot be followed, once; the sources stay as they are."""
        if fault != self._fault:
            self._fault = fault
            log.error("slot %s: it keeps its sources and follows no plan: %s", self._slot, fault)

    def _take(self, plan: FleetPlan) -> None:
        self._plan = plan
        if self._take_fleet is not None:
            self._take_fleet(plan.sources)
        names = sorted(plan.sources_of(self._slot))
        log.info(
            "slot %s: version %d of the fleet gives it %s",
            self._slot,
            plan.version,
            ", ".join(names) or "no source",
        )
        if self._slot not in plan.slots:
            log.warning(
                "slot %s: the fleet has no such slot; add [slots.%s] to its fleet.toml, then "
                "framegate fleet apply fleet.toml",
                self._slot,
                self._slot,
            )

    async def _sign_on(self) -> None:
        """Write signs of life until cancelled, also while a source takes long to be added."""
        self._http = await self._outside_address()
        store: FleetStore | None = None
        try:
            while True:
                pause_s = LOOK_S
                try:
                    if store is None:
                        store = await in_thread(FleetStore, self._supervisor.plan.store)
                    if self._has_slot:
                        await in_thread(self._sign, store, self._sign_of_life())
                        self._answered_mono = time.monotonic()
                    else:
                        pause_s = HURRY_S
                except STORE_ERRORS as error:
                    log.debug("fleet: %s", error)
                await asyncio.sleep(pause_s)
        finally:
            if store is not None:
                store.close()

    def _sign_of_life(self) -> SlotSign:
        """Return the sign of life. Call it in the loop, which changes what it reads."""
        return SlotSign(
            self._run,
            socket.gethostname(),
            self._plan.version,
            len(self._supervisor.sources.specs()),
            dict(self._refused),
            self._http or "",
            self._fault,
            self._meter.costs(),
        )

    def _sign(self, store: FleetStore, sign: SlotSign) -> None:
        if store.has_slot(self._slot, self._run):  # otherwise the sign is that of a newer instance
            store.sign(self._slot, sign)

    async def _note_places(self) -> None:
        """Write into the store which times are recorded in the data folder of this slot."""
        self._noted_mono = time.monotonic()
        plan = self._supervisor.plan
        self._places = await in_thread(
            note_places, plan.store, self._slot, plan.folder, self._http or "", self._places
        )

    async def _measure(self, store: FleetStore) -> None:
        """Measure which cores the cameras of this slot need."""
        self._measured_mono = time.monotonic()
        specs = self._supervisor.sources.specs()
        frames = await in_thread(store.frames, [spec.name for spec in specs])
        cameras = frozenset(spec.name for spec in specs if spec.live)
        uses = self._supervisor.uses()
        self._meter.add(Reading(time.monotonic(), uses, frames, cameras))

    async def _outside_address(self) -> str:
        """Return the HOST:PORT at which other hosts reach the HTTP port; "" if they cannot."""
        store = urlsplit(self._supervisor.plan.store).hostname
        http = outside_address(self._listening, await in_thread(own_address, store))
        if not http:
            log.info(
                "slot %s: other hosts cannot reach its HTTP port, so the fleet's list of targets "
                "does not name it; framegate run --http 0.0.0.0:8686 opens it",
                self._slot,
            )
        return http

    # -- cameras while the store is away

    def _note_answer(self) -> None:
        self._answered_mono = time.monotonic()
        self._is_away = False

    async def _watch_store(self) -> None:
        """Close cameras in time, also while a look waits for the store.

        One look has failed by then. Without a failure, this process was stopped meanwhile.
        """
        while True:
            pause_s = self._answered_mono + CLOSE_CAMERAS_S - time.monotonic()
            if pause_s <= 0 and self._is_away:
                await self._close_cameras()
                pause_s = LOOK_S
            await asyncio.sleep(max(HURRY_S, pause_s))

    async def _close_cameras(self) -> None:
        """Close the cameras whose server is away, after CLOSE_CAMERAS_S: another host may need
        them, and many cameras allow one session only.
        """
        names = {source.name for source in self._supervisor.sources.specs() if source.live}
        if names <= self._closed_cameras:
            return
        if self._store is not None:
            names = await in_thread(self._store.silent, sorted(names))
        if names <= self._closed_cameras or not self._is_away:  # or it answered just now
            return
        self._closed_cameras = names
        log.warning(
            "slot %s: no answer of the store for %.0f s: cameras are closed until it is back: %s",
            self._slot,
            CLOSE_CAMERAS_S,
            ", ".join(sorted(names)),
        )
        self._supervisor.close_cameras(names)

    async def _take_up(self, store: FleetStore, wanted: Mapping[str, FleetSource]) -> None:
        """Connect the closed cameras again that are still this slot's."""
        names = sorted(self._closed_cameras)
        owners = await in_thread(store.owners, names)
        self._closed_cameras = set()
        lost = {name for name in names if name not in wanted or owners[name].run != self._run}
        self._supervisor.close_cameras(lost)
        log.info(
            "slot %s: the store is back; other hosts serve %s",
            self._slot,
            ", ".join(sorted(lost)) or "none of its cameras",
        )

    # -- sources that leave

    async def _release(self, wanted: Mapping[str, FleetSource]) -> None:
        """Release the sources that the plan does not give to this slot any more, or differently."""
        for name, task in list(self._handing_over.items()):
            if task.done():
                del self._handing_over[name]
                if task.exception() is not None:
                    log.warning("source %s: it is not released: %s", name, task.exception())
        sources = self._supervisor.sources
        lost = sources.lost()
        for source in sources.listed():
            new = wanted.get(source.name)
            is_wanted = new is not None and new.since == source.since
            if source.name in self._handing_over or (is_wanted and source.name not in lost):
                continue
            if source.name in self._plan.sources:
                release = self._supervisor.hand_over([source.name])
            else:
                release = self._supervisor.remove([source.name])
            self._handing_over[source.name] = asyncio.create_task(release)

    # -- sources that arrive

    async def _claim(self, store: FleetStore, wanted: Mapping[str, FleetSource]) -> None:
        known = self._supervisor.sources.names()
        missing = [name for name in wanted if name not in known]
        self._refused = {name: why for name, why in self._refused.items() if name in missing}
        if not missing:
            self._waits_since.clear()
            return
        owners = await in_thread(store.owners, missing)
        is_waited_for = any(owner.run for owner in owners.values())
        alive: set[str] = set()
        if is_waited_for:
            signs = await in_thread(store.signs, list(self._plan.slots))
            alive = {sign.run for sign in signs.values()}
        now = time.monotonic()
        waiting: dict[str, float] = {}
        for name in missing:
            owner = owners[name]
            began = self._waits_since.get(name, now)
            since = wanted[name].since
            step = next_step(owner, self._run, since, owner.run in alive, now - began)
            if step is NextStep.WAIT:
                waiting[name] = began
            elif step is NextStep.REFUSE:
                self._refuse(name, f"run {owner.name}, which is no slot, owns it; stop that run")
            else:
                await self._add(name, wanted[name])
        self._waits_since = waiting

    async def _add(self, name: str, wanted: FleetSource) -> None:
        try:
            source = await in_thread(source_of, name, wanted)
            # It gets back what was taken from it: `claim_slot` decides between its instances.
            await self._supervisor.add([source], take_over=True)
        except STORE_ERRORS:
            raise
        except FramegateError as error:
            self._refuse(name, str(error))
        else:
            self._refused.pop(name, None)

    def _refuse(self, name: str, why: str) -> None:
        why = redacted(why)
        if self._refused.get(name) != why:
            log.error("source %s: slot %s cannot serve it: %s", name, self._slot, why)
        self._refused[name] = why


def source_of(name: str, wanted: FleetSource) -> RunSource:
    """Return a source of the plan as a run of this host keeps it.

    ConfigFaults if this host lacks the variable of its URL, or its file.
    """
    faults: list[str] = []
    read = read_sources({name: wanted.keys}, faults)
    if faults:
        raise ConfigFaults(faults)
    source = replace(run_source(name, read[name], by="add"), since=wanted.since)
    faults = list(file_faults([source]).values())
    if faults:
        raise ConfigFaults([f"{fault} on {socket.gethostname()}" for fault in faults])
    return replace(source, identity=file_identity(source, wanted.keys))
