"""The stage `events`: evaluate the rules of `[events]` over published results.

`tracks` follows the objects, `conditions` evaluates the rules on them, `crossings` finds crossed
lines, `episodes` derives starts and ends, `muting` judges starts by what verdicts taught, and
`evaluate` combines them. `models.geometry` has the areas and lines.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from framegate.pipeline.config.events import EventsConfig
from framegate.pipeline.contracts.episodes import Changes
from framegate.pipeline.contracts.records import End
from framegate.pipeline.contracts.results import Result
from framegate.pipeline.contracts.stage import Context, Item, Stage
from framegate.pipeline.contracts.visits import visits_at
from framegate.stages.events.evaluate import RuleJudge
from framegate.stages.events.state import EventsState


class Episodes(Stage[EventsState]):
    """Reads results and emits changes of episodes, if there are any.

    In     Result
    Out    contracts.episodes.Changes; at the end of an epoch, and while a camera is away, they are
           part of the end
    State  tracks, and the periods in which rules are true
    Fails  never because of the content of a result
    """

    Options = EventsConfig
    State = EventsState
    keeps = 20_000
    options: EventsConfig

    def __init__(self, options: EventsConfig, context: Context) -> None:
        super().__init__(options, context)
        self._judges: dict[str, RuleJudge] = {}
        self._changed: Mapping[str, Any] | None = None

    def each(self, item: Item, state: EventsState) -> tuple[Changes | None, EventsState]:
        """Evaluate the rules on a frame."""
        judge = self._judge_of(item.source)
        if judge.is_idle(state):
            return None, state
        return judge.judge(item.output_of(self.context.before, Result), state)

    def end(self, source: str, end: End, state: EventsState) -> tuple[Changes | None, EventsState]:
        """Evaluate the rules at the end of an epoch."""
        visits = visits_at(end, self.context.before)
        return self._judge_of(source).end(end, state, visits)

    def away(self, source: str, end: End, state: EventsState) -> tuple[Changes | None, EventsState]:
        """Evaluate the rules that depend on time while a camera is away."""
        return self._judge_of(source).end(end, state)

    def _judge_of(self, source: str) -> RuleJudge:
        changed = self.context.options()
        if changed is not None and changed is not self._changed:
            self._changed = changed
            self.options = msgspec.convert(changed, EventsConfig)
            self._judges = {}  # all of their memory is in the state
        if source not in self._judges:
            self._judges[source] = RuleJudge(self.options, source)
        judge = self._judges[source]
        judge.mutes.use(self.context.filters(source))  # also at an end, which can be its first call
        return judge
