"""Evaluate rules on stored results, as the stage of a run would have done."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from framegate.pipeline.config.events import EventsConfig
from framegate.pipeline.contracts.episodes import Changes
from framegate.pipeline.contracts.moments import StoredMoment
from framegate.pipeline.contracts.object_filters import ObjectFilter
from framegate.pipeline.contracts.records import End, Position
from framegate.pipeline.contracts.results import Result
from framegate.pipeline.contracts.stage import NO_FILTERS
from framegate.pipeline.contracts.visits import visits_at
from framegate.stages.events.evaluate import RuleJudge
from framegate.stages.events.state import EventsState

_PUBLISHER: Final = "cache"  # name of the stage whose results are stored


def replay(
    config: EventsConfig,
    entries: Iterable[Result | tuple[str, End]],
    filters: Mapping[str, ObjectFilter] = NO_FILTERS,
) -> Iterator[tuple[str, Position, Changes]]:
    """Evaluate rules on stored results; yield (source, position, changes) for each change.

    entries  results and ends (with the name of their source), in order within each source; without
             its end, a source keeps its episodes open
    filters  filters that mute episodes, of all sources
    """
    judges: dict[str, RuleJudge] = {}
    states: dict[str, EventsState] = {}
    for entry in entries:
        source = entry.source if isinstance(entry, Result) else entry[0]
        judge = judges.get(source)
        if judge is None:
            judge = judges[source] = RuleJudge(config, source)
            own = {name: each for name, each in filters.items() if each.is_for(source)}
            judge.mutes.use(own)
        state = states.get(source, EventsState())
        if isinstance(entry, Result):
            position = entry.position
            changes, states[source] = judge.judge(entry, state)
        else:
            at = state.at or StoredMoment(0, 0, 0.0, 0.0)
            position = Position(at.epoch, at.seq + 1)
            visits = visits_at(entry[1], _PUBLISHER)
            changes, states[source] = judge.end(entry[1], state, visits)
        if changes is not None:
            yield source, position, changes
