"""Events: judges the rules of `[events]` over what is published, and tells how episodes change.

`geometry` (of models.events) says where things stand, `tracks` which are there, `rules` what holds
of them, `crossings` who went over a line, `episodes` how that begins and ends, `judge` puts them
together; this is the stage.
"""

from __future__ import annotations

from framegate.pipeline.config.events import EventsConfig
from framegate.pipeline.contracts.episodes import Changes
from framegate.pipeline.contracts.records import End
from framegate.pipeline.contracts.results import Result
from framegate.pipeline.contracts.stage import Context, Item, Stage
from framegate.stages.events.evaluate import RuleJudge
from framegate.stages.events.state import EventsState


class Episodes(Stage[EventsState]):
    """One result in; what changes of episodes out, where anything does.

    In     Result
    Out    contracts.episodes.Changes; at an epoch's end, and while a camera is away, they are in
           what the end says
    State  tracks, and what rules hold of them
    Fails  never by what is in a result
    """

    Options = EventsConfig
    State = EventsState
    keeps = 20_000
    options: EventsConfig

    def __init__(self, options: EventsConfig, context: Context) -> None:
        super().__init__(options, context)
        self._judges: dict[str, RuleJudge] = {}

    def each(self, item: Item, state: EventsState) -> tuple[Changes | None, EventsState]:
        """Judge a frame."""
        result = item.output_of(self.context.before, Result)
        return self._of(item.source).judge(result, state)

    def end(self, source: str, end: End, state: EventsState) -> tuple[Changes | None, EventsState]:
        """Judge the end of an epoch."""
        return self._of(source).end(end, state)

    def away(self, source: str, end: End, state: EventsState) -> tuple[Changes | None, EventsState]:
        """Judge what time alone changes, while a camera is away."""
        return self._of(source).end(end, state)

    def _of(self, source: str) -> RuleJudge:
        if source not in self._judges:
            self._judges[source] = RuleJudge(self.options, source)
        return self._judges[source]
