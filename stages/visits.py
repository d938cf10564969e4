"""The stage `visits`: write the visits of published results into a stream of their own.

A busy street has many more visits than episodes. In a stream of their own they do not push episodes
out of the stream from which sinks deliver.
"""

from __future__ import annotations

from framegate.pipeline.contracts.records import End
from framegate.pipeline.contracts.stage import Item, NoState, Stage
from framegate.pipeline.contracts.visits import LastVisits, Visit, visits_at, visits_with


class Visits(Stage[NoState]):
    """Reads results and emits the visits that ended, if there are any.

    In     Result
    Out    contracts.visits.LastVisits; at the end of an epoch, they are part of the end
    State  none
    """

    keeps = 20_000

    def each(self, item: Item, state: NoState) -> tuple[LastVisits | None, NoState]:
        """Pass the visits of a frame on."""
        return _passed(visits_with(item.record, self.context.before)), state

    def end(self, source: str, end: End, state: NoState) -> tuple[LastVisits | None, NoState]:  # noqa: ARG002
        """Pass the visits of an epoch that ends on."""
        return _passed(visits_at(end, self.context.before)), state


def _passed(visits: tuple[Visit, ...]) -> LastVisits | None:
    if not visits:
        return None
    return LastVisits(visits)
