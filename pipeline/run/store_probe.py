"""Looks into the store for the supervisor: where stages stand, and which have something to do."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from framegate.pipeline.contracts import records
from framegate.pipeline.contracts.errors import StoreBusy, StoreLost, StoreRefused
from framegate.pipeline.contracts.records import DecodeState, Position
from framegate.pipeline.contracts.spec import SourceSpec, StageSpec
from framegate.pipeline.ingest.credit import still_unread
from framegate.pipeline.run.plan import Plan
from framegate.pipeline.store.admin import StoreAdmin


def pending_stages(
    stages: Sequence[StageSpec], source: SourceSpec, at: Mapping[str, Position], decoded: bool
) -> set[str]:
    """Return the stages that have a frame of this source to work on; only those can be hung.

    at       where every stage stands
    decoded  whether nothing is left to decode

    A decoder that waits for its readers has nothing to do, be it for the last epoch's or this
    one's. One that waits for the source's own pace is in this set: its worker says so itself, in
    Pong. A camera's is never: its frames may come or not.
    """
    pending = {s.name for s in stages if s.input is not None and at[s.name] < at[s.input]}
    slowest = min(at[s.name] for s in stages if not s.misses(source.live))
    last = at["decode"]
    if (
        not (decoded or source.live)
        and slowest.epoch == last.epoch
        and last.seq - slowest.seq <= still_unread(source.credit)
    ):
        pending.add("decode")
    return pending


@dataclass
class ProbeResult:
    """What one look at the store found.

    lost     sources that another run has taken over
    faults   why sources ended early, by source
    pending  stages that have something to do, by source
    through  sources of which all stages passed the last end
    passed   whether all stages passed all that is or will be decoded
    """

    lost: list[str]
    faults: dict[str, str] = field(default_factory=dict)
    pending: dict[str, set[str]] = field(default_factory=dict)
    through: set[str] = field(default_factory=set)
    passed: bool = True


class StoreProbe:
    """Asks the store about one run's sources. Any thread."""

    def __init__(self, plan: Plan, store: StoreAdmin) -> None:
        self._plan, self._store = plan, store

    def may_be_ours(self, source: str) -> bool:
        """Return whether no other run is known to own it; a store that is away knows none."""
        try:
            return self._is_ours(source)
        except (StoreLost, StoreBusy):
            return True

    def _is_ours(self, source: str) -> bool:
        return self._store.owner(source) == self._plan.run

    def positions(
        self, sources: Sequence[str], stages: list[str]
    ) -> tuple[dict[tuple[str, str], Position], dict[str, int]]:
        """Return where these stages stand with each source, and the last epoch of each source."""
        positions = {
            (source, stage): at
            for source in sources
            for stage, at in self._store.positions(source, stages).items()
        }
        return positions, {source: self._store.epoch(source) for source in sources}

    def write_fault(self) -> str | None:
        """Return why the store takes no writes now, such as a full disk; None: it does."""
        try:
            self._store.check_writes()
        except StoreBusy as error:
            return str(error)
        return None

    def look(
        self,
        sources: Sequence[SourceSpec],
        given_up: Collection[str],
        draining: bool,
        thorough: bool,
    ) -> ProbeResult:
        """Look once. StoreRefused if the store was replaced by another.

        given_up  stages of the plan that count no more
        draining  nothing is decoded any more
        thorough  look whether the store is still the one that the run began with
        """
        seen = ProbeResult([source.name for source in sources if not self._is_ours(source.name)])
        if seen.lost or thorough:
            self._check_store()
        ours = [source for source in sources if source.name not in seen.lost]
        for source in ours:
            for stage in given_up:  # each time: a reader of theirs may have attached meanwhile
                self._store.detach(source.name, stage)
        stages = [stage for stage in self._plan.stages if stage.name not in given_up]
        names = [stage.name for stage in stages]
        found = self._store.standings([source.name for source in ours], names)
        for source in ours:
            at, state = found[source.name]
            decoded = records.decode(state, DecodeState) if state else DecodeState()
            ran = decoded.run == self._plan.run and at["decode"].epoch > source.past
            done = decoded.done and ran
            if done and decoded.fault is not None:
                seen.faults[source.name] = decoded.fault
            seen.pending[source.name] = pending_stages(stages, source, at, done)
            seen.passed &= (draining or done) and _all_there(at)
            if done and _all_there(at):
                seen.through.add(source.name)
        return seen

    def _check_store(self) -> None:
        if not self._store.same(self._plan.identity):
            raise StoreRefused(
                "the store was emptied or replaced during the run; nothing was restarted"
            )


def _all_there(at: Mapping[str, Position]) -> bool:
    return min(at.values()) >= at["decode"]
