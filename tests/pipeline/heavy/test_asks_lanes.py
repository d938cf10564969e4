"""The last free lane of a place: no source waits for the flood of another, or for audits."""

from __future__ import annotations

import threading
from contextlib import closing
from dataclasses import dataclass, field

from framegate.pipeline.heavy.asks import Asks
from tests.support.held_place import HeldPlace, question


def test_the_last_free_lane_is_for_a_source_that_has_none() -> None:
    place = HeldPlace(lanes=3, most=2)
    flood = [question("f", seq) for seq in range(9)]
    calm = question("c", 1)
    with closing(Asks(place, delay_s=0.0)) as asks:
        for one in flood:
            asks.ask(one)
        of_flood = [place.next(), place.next()]
        asks.ask(calm)
        of_calm = place.next()
        assert [q.id.source for q in of_calm.questions] == ["c"]
        of_calm.let()
        assert place.calls.empty()
        for call in of_flood:
            call.let()
        went = sum(len(call.questions) for call in of_flood)
        while went < len(flood):
            call = place.next()
            went += len(call.questions)
            call.let()


def test_what_is_not_urgent_has_the_last_free_lane_only_if_it_has_no_other() -> None:
    place = HeldPlace(lanes=2)
    audits = [question("a", seq, urgent=False) for seq in range(2)]
    with closing(Asks(place, delay_s=0.0)) as asks:
        for audit in audits:
            asks.ask(audit)
        audited = place.next()
        asks.ask(question("a", 4))
        assert [q.urgent for q in place.next().questions] == [True]
        assert place.calls.empty()
        audited.let()
        assert [q.urgent for q in place.next().questions] == [False]


@dataclass
class LeftPlace(HeldPlace):
    """Notes which threads leave it."""

    left: list[str] = field(default_factory=list)

    def leave(self) -> None:
        self.left.append(threading.current_thread().name)


def test_each_lane_leaves_the_place_once_when_it_ends() -> None:
    place = LeftPlace(lanes=3)
    with closing(Asks(place, delay_s=0.0)) as asks:
        for source in ("a", "b"):
            asks.ask(question(source))
        place.next().let()
        place.next()
        assert place.left == []
    assert sorted(place.left) == ["asks-0", "asks-1", "asks-2"]
