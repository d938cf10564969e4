"""Each published result is counted once by how it was looked at; what is no result is not."""

from __future__ import annotations

import msgspec

from framegate.pipeline.contracts import records
from framegate.pipeline.contracts.results import GateView, Object, Settled
from framegate.pipeline.telemetry.counters import (
    escalations_of,
    last_counters,
    looks_of,
    objects_of,
    result_counters,
    share_looked,
)
from framegate.stages.publish import LastSettled
from tests.support.published import result


def test_a_result_is_counted_by_what_was_looked_at_and_why() -> None:
    whole = result("door", 1, 0)
    view = GateView(1, 1, 16, b"\x80", ((0, 0, 9, 9),), b"\x1e")
    part = msgspec.structs.replace(whole, looked="part", reason="changed", gate=view)
    named = [
        result_counters(records.encode(told)) for told in (whole, part, {"people": 3}, [1], None)
    ]
    empty = ("looked:part:changed", "empty_looks")
    assert named == [("looked:whole:every_frame",), empty, (), (), ()]


def test_reasons_outside_the_closed_list_are_no_counters() -> None:
    odd = {**msgspec.to_builtins(result("door", 1, 0)), "reason": "because:of:me"}
    assert result_counters(records.encode(odd)) == ()


def test_the_share_of_frames_that_were_looked_at() -> None:
    counters = {"looked:no:waiting": 6, "looked:part:age": 1, "looked:whole:moving": 1, "looked": 9}
    looks = looks_of(counters)
    assert looks == {"no": {"waiting": 6}, "part": {"age": 1}, "whole": {"moving": 1}}
    assert share_looked(looks) == 0.25
    assert share_looked({}) is None


def test_a_look_at_a_change_that_found_nothing_is_counted() -> None:
    def counted(reason: str, *origins: str) -> bool:
        objects = tuple(
            Object(track=1, label="car", class_id=2, score=0.9, box=(0, 0, 1, 1), origin=origin)
            for origin in origins
        )
        shown = msgspec.structs.replace(result("door", 1, 0), reason=reason, objects=objects)
        return "empty_looks" in result_counters(records.encode(shown))

    assert counted("changed")
    assert counted("too_much", "carried", "moved")
    assert not counted("changed", "carried", "detected")
    assert not counted("too_much", "escalated")
    assert not any(counted(reason) for reason in ("first", "age", "waiting", "every_frame"))


def test_a_result_is_counted_by_what_became_of_its_escalation() -> None:
    plain = result("door", 1, 0)
    done = msgspec.structs.replace(plain, escalation="done")
    late = msgspec.structs.replace(plain, escalation="degraded", degraded="late")
    named = [result_counters(records.encode(told))[1:] for told in (plain, done, late)]
    assert named == [(), ("escalated:done",), ("escalated:late",)]
    assert escalations_of({"escalated:done": 3, "escalated:late": 1, "decoded": 9}) == {
        "done": 3,
        "late": 1,
    }


def test_tracks_are_counted_by_the_label_that_is_settled() -> None:
    settled = tuple(Settled(*one) for one in ((3, "person"), (4, "person"), (5, "car")))
    told = msgspec.structs.replace(result("door", 1, 0), settled=settled)
    named = ("objects:person", "objects:person", "objects:car")
    assert result_counters(records.encode(told))[1:] == named
    assert last_counters(records.encode(LastSettled(settled))) == named
    assert [last_counters(records.encode(said)) for said in ({"people": 3}, [1], None)] == [()] * 3
    assert objects_of({"objects:person": 2, "objects:car": 1, "decoded": 9}) == {
        "person": 2,
        "car": 1,
    }
