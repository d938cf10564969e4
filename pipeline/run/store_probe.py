"""Read the positions of all stages from the store, for the supervisor."""

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
    """Return the stages that have a frame of this source to process; only those can hang.

    A decoder that waits for its readers, in this epoch or the last, has no work. A decoder that
    waits for the source's own pace is in the set; its worker reports that in Pong. A camera's
    decoder never is, because no frame may arrive.

    at       position of every stage
    decoded  whether decode is done
    """
    pending = {s.name for s in stages if s.input is not None and at[s.name] < at[s.input]}
    slowest = min(at[s.name] for s in stages if not s.misses(source.live))
    last = at["decode"]
    unread = last.seq - slowest.seq
    may_decode = slowest.epoch == last.epoch and unread <= still_unread(source.credit)
    if may_decode and not decoded and not source.live:
        pending.add("decode")
    return pending


@dataclass
class ProbeResult:
    """The result of a look at the store.

    lost     sources that another run has taken over
    faults   faults of sources that ended early
    pending  stages with work, by source
    idle     sources whose committed frames all stages have passed
    through  those of them whose last end is among these frames
    passed   whether all stages have passed all frames that are or will be decoded
    """

    lost: list[str]
    faults: dict[str, str] = field(default_factory=dict)
    pending: dict[str, set[str]] = field(default_factory=dict)
    idle: set[str] = field(default_factory=set)
    through: set[str] = field(default_factory=set)
    passed: bool = True


class StoreProbe:
    """Queries to the store about the sources of a run. Any thread."""

    def __init__(self, plan: Plan, store: StoreAdmin) -> None:
        self._plan = plan
        self._store = store

    def may_be_ours(self, source: str) -> bool:
        """Return False if another run owns a source; True if the store cannot be reached."""
        try:
            return self._is_ours(source)
        except (StoreLost, StoreBusy):
            return True

    def _is_ours(self, source: str) -> bool:
        return self._store.owner(source) == self._plan.run

    def positions(
        self, sources: Sequence[str], stages: list[str]
    ) -> tuple[dict[tuple[str, str], Position], dict[str, int]]:
        """Return the positions by (source, stage), and the last epoch of each source."""
        positions: dict[tuple[str, str], Position] = {}
        for source in sources:
            for stage, at in self._store.positions(source, stages).items():
                positions[source, stage] = at
        epochs = {source: self._store.epoch(source) for source in sources}
        return positions, epochs

    def write_fault(self) -> str | None:
        """Return why the store accepts no writes, such as a full disk; None if it does."""
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
        checks_store: bool,
    ) -> ProbeResult:
        """Look at the store once. StoreRefused if it was replaced by another.

        given_up      stages that the run continues without
        draining      whether decoding has been stopped
        checks_store  whether to check that the store is still the same
        """
        lost = [source.name for source in sources if not self._is_ours(source.name)]
        result = ProbeResult(lost)
        if lost or checks_store:
            self._check_store()
        ours = [source for source in sources if source.name not in lost]
        for source in ours:
            for stage in given_up:  # each time, because a reader may have attached meanwhile
                self._store.detach(source.name, stage)
        stages = [stage for stage in self._plan.stages if stage.name not in given_up]
        standings = self._store.positions_and_states(
            [source.name for source in ours], [stage.name for stage in stages]
        )
        for source in ours:
            at, encoded = standings[source.name]
            state = DecodeState()
            if encoded:
                state = records.decode(encoded, DecodeState)
            is_our_state = state.run == self._plan.run or source.continues
            is_of_run = is_our_state and at["decode"].epoch > source.past
            is_decoded = state.done and is_of_run
            has_passed = min(at.values()) >= at["decode"]
            if is_decoded and state.fault is not None:
                result.faults[source.name] = state.fault
            result.pending[source.name] = pending_stages(stages, source, at, is_decoded)
            if not has_passed or not (draining or is_decoded):
                result.passed = False
            if has_passed:
                result.idle.add(source.name)
            if is_decoded and has_passed:
                result.through.add(source.name)
        return result

    def _check_store(self) -> None:
        if not self._store.has_identity(self._plan.identity):
            raise StoreRefused(
                "the store was emptied or replaced during the run; nothing was restarted"
            )
