"""The pure policies: credit, inbox, blame for deaths, backoff, latency buckets."""

from __future__ import annotations

from collections import deque
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from framegate.pipeline.engine.hosted_stage import by_arrival
from framegate.pipeline.engine.inbox import Arrival, Inbox
from framegate.pipeline.ingest.credit import (
    CHANGES_S,
    MOST_CHANGES,
    MOST_SIZES,
    Credit,
    SizeChanges,
    Sizes,
    still_unread,
)
from framegate.pipeline.records import VERSION, End, Position, Record
from framegate.pipeline.retry import Backoff
from framegate.pipeline.run.deaths import LIMIT, Deaths
from framegate.pipeline.run.store_probe import pending_stages
from framegate.pipeline.source import Form, Request
from framegate.pipeline.spec import CAREFUL_FRAMES, SourceSpec, StageSpec
from framegate.pipeline.stage import Item
from framegate.pipeline.telemetry.counters import BOUNDS_S, bucket, percentile


def frame(seq: int, arrived: float, epoch: int = 1) -> Arrival:
    record = Record(VERSION, None, 0.0, arrived, seq, Form(2, 2))
    return Arrival(Position(epoch, seq), record)


def end(seq: int) -> Arrival:
    return Arrival(Position(1, seq), End(VERSION, seq, last=True))


class TestCredit:
    def test_full_at_its_limit_not_before(self) -> None:
        credit = Credit(2)
        credit.take(Position(1, 0))
        assert not credit.full
        credit.take(Position(1, 1))
        assert credit.full
        assert not credit.release(Position(0, 9))
        assert credit.release(Position(1, 0))
        assert not credit.full

    @given(st.integers(1, 40), st.lists(st.integers(0, 60), max_size=60))
    def test_in_flight_is_what_was_taken_and_not_read(self, limit: int, reads: list[int]) -> None:
        credit, expected, seq = Credit(limit), deque[Position](), 0
        for read in reads:
            while not credit.full:
                credit.take(Position(1, seq))
                expected.append(Position(1, seq))
                seq += 1
            assert credit.low_water in list(expected)[: max(1, limit - 1)]
            credit.release(Position(1, read))
            expected = deque(at for at in expected if at > Position(1, read))
            assert len(credit) == len(expected) <= limit

    def test_a_later_epoch_releases_an_earlier_one(self) -> None:
        credit = Credit(4)
        for at in (Position(1, 7), Position(1, 8), Position(2, 0)):
            credit.take(at)
        credit.release(Position(2, 0))
        assert len(credit) == 0


class TestSizes:
    @given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 60)), max_size=60))
    def test_no_more_at_once_than_allowed_and_none_that_is_wanted_goes(
        self, steps: list[tuple[int, int]]
    ) -> None:
        """Against a list of all frames with their forms."""
        sizes, out, read = Sizes(), list[tuple[Form, int]](), -1
        for width, passed in steps:
            form = Form(2 + width, 2)
            read = max(read, min(passed, len(out) - 1))
            sizes.release(Position(1, read))
            unread = {form for form, seq in out if seq > read}
            newest = {out[-1][0]} if out else set()
            assert set(sizes) == unread | newest
            until = sizes.waits_for(form)
            if until is not None:
                assert len({*unread, *newest, form}) > MOST_SIZES
                sizes.release(until)
                read = max(read, until.seq)
                assert sizes.waits_for(form) is None
            assert sizes.take(form, Position(1, len(out))) == (
                form not in {f for f, seq in out if seq > read} | newest
            )
            out.append((form, len(out)))
            assert len(list(sizes)) <= MOST_SIZES

    def test_so_many_changes_within_so_long_and_not_one_more(self) -> None:
        def first_too_many(every_s: float, changes: int) -> int | None:
            rule = SizeChanges()
            found = [rule.too_many(Form(2 + n % 7, 2), n * every_s) for n in range(changes + 1)]
            return found.index(True) if True in found else None

        often = CHANGES_S / MOST_CHANGES
        assert first_too_many(often * 0.9, 1000) == MOST_CHANGES + 1
        assert first_too_many(often * 1.01, 1000) is None
        assert first_too_many(1 / 30, MOST_CHANGES) is None
        assert not any(SizeChanges().too_many(Form(2, 2), 0.0) for _ in range(1000))

    @pytest.mark.parametrize("times", ["none", "from 0 again", "leaps"])
    def test_time_stamps_that_say_nothing_count_as_a_25th_of_a_second(self, times: str) -> None:
        def at(n: int) -> float | None:
            return {"none": None, "from 0 again": (n % 3) / 25, "leaps": n * 1e6}[times]

        rule = SizeChanges()
        slow = [rule.too_many(Form(2 + n // 75 % 2, 2), at(n)) for n in range(75 * 100)]
        assert not any(slow), "one in three seconds"
        rule = SizeChanges()
        assert any(rule.too_many(Form(2 + n % 2, 2), at(n)) for n in range(40))


class TestInbox:
    def test_who_was_served_longest_ago_comes_first_of_those_the_earliest_arrival(self) -> None:
        inbox = Inbox()
        inbox.add("a", [frame(n, arrived=10.0 + n) for n in range(6)])
        inbox.add("b", [frame(n, arrived=10.5 + n) for n in range(6)])
        batch = inbox.take(4, {})
        assert [a.position.seq for a in batch["a"]] == [0, 1]
        assert [a.position.seq for a in batch["b"]] == [0, 1]

    def test_one_source_with_much_does_not_starve_another(self) -> None:
        inbox = Inbox()
        inbox.add("busy", [frame(n, arrived=float(n)) for n in range(1000)])
        inbox.add("quiet", [frame(0, arrived=5.5)])
        assert "quiet" in inbox.take(8, {})

    def test_what_several_flood_is_passed_by_the_next_frame_of_one_that_behaves(self) -> None:
        """Their frames came before its own, and more of them wait than a batch takes."""
        floods = [f"flood_{n}" for n in range(9)]
        inbox = Inbox()
        for n, source in enumerate(floods):
            inbox.add(source, [frame(seq, arrived=n / 100) for seq in range(4)])
        inbox.add("quiet", [frame(0, arrived=1.0)])
        first = [set(inbox.take(8, {})), set(inbox.take(2, {}))]
        assert set.union(*first) == {*floods, "quiet"}  # a turn of each, whoever came first
        inbox.take(8, {})
        inbox.add("quiet", [frame(1, arrived=2.0)])
        assert "quiet" in inbox.take(2, {})

    def test_nothing_is_taken_past_an_end(self) -> None:
        for most in (2, 100):
            inbox = Inbox()
            inbox.add("a", [frame(0, 1.0), end(1), frame(0, 2.0, epoch=2)])
            assert [a.position for a in inbox.take(most, {})["a"]] == [(1, 0), (1, 1)]
            assert [a.position for a in inbox.take(most, {})["a"]] == [(2, 0)]

    def test_a_resting_source_starves_nobody(self) -> None:
        inbox = Inbox()
        inbox.add("a", [frame(n, arrived=float(n)) for n in range(20)])
        inbox.add("b", [frame(0, arrived=100.0)])
        assert set(inbox.take(8, {}, ["a"])) == {"b"}
        assert set(inbox.take(8, {})) == {"a"}

    def test_a_careful_source_comes_alone_and_one_by_one(self) -> None:
        inbox = Inbox()
        inbox.add("a", [frame(n, arrived=float(n)) for n in range(3)])
        inbox.add("b", [frame(n, arrived=0.5 + n) for n in range(3)])
        until = {"a": Position(1, 1)}
        taken = [inbox.take(8, until) for _ in range(4)]
        assert [{s: [a.position.seq for a in b] for s, b in t.items()} for t in taken] == [
            {"a": [0]},
            {"b": [0]},
            {"a": [1]},
            {"b": [1, 2], "a": [2]},
        ]

    @given(st.data())
    def test_nothing_is_lost_doubled_or_reordered(self, data: st.DataObject) -> None:
        inbox, sent, got = Inbox(), dict.fromkeys("abc", 0), {s: [] for s in "abc"}  # type: ignore[var-annotated]
        for _ in range(data.draw(st.integers(1, 12))):
            source = data.draw(st.sampled_from("abc"))
            n = data.draw(st.integers(0, 5))
            inbox.add(
                source, [frame(sent[source] + i, data.draw(st.floats(0, 9))) for i in range(n)]
            )
            sent[source] += n
            for name, arrivals in inbox.take(data.draw(st.integers(1, 6)), {}).items():
                keep = data.draw(st.integers(0, len(arrivals)))
                got[name] += [a.position.seq for a in arrivals[:keep]]
                inbox.give_back(name, arrivals[keep:])
        while batch := inbox.take(5, {}):
            for name, arrivals in batch.items():
                got[name] += [a.position.seq for a in arrivals]
        assert got == {name: list(range(n)) for name, n in sent.items()}


@given(st.lists(st.tuples(st.sampled_from("ab"), st.floats(0, 1e6)), max_size=30))
def test_within_a_source_no_clock_changes_the_order(arrivals: list[tuple[str, float]]) -> None:
    """Times of arrival may be of a clock that was reset since: order is by position."""
    items, seqs = [], dict.fromkeys("ab", 0)
    for source, arrived in arrivals:
        arrival = frame(seqs[source], arrived)
        assert isinstance(arrival.record, Record)
        items.append(Item(source, arrival.position, arrival.record))
        seqs[source] += 1
    ordered = by_arrival(items)
    for source, n in seqs.items():
        assert [i.position.seq for i in ordered if i.source == source] == list(range(n))


class TestPending:
    STAGES = tuple(
        StageSpec(name, "", before, main=reliable, reliable=reliable, publishes=name == "cache")
        for name, before, reliable in [
            ("decode", None, True),
            ("detect", "decode", True),
            ("cache", "detect", True),
            ("side", "decode", False),
        ]
    )

    def pending(self, pace: str = "fast", decoded: bool = False, **at: Position) -> set[str]:
        source = SourceSpec("a", Request(""), past=0, credit=32, slots=32, pace=pace)
        here = {"detect": at["decode"], "cache": at["decode"], "side": at["decode"], **at}
        return pending_stages(self.STAGES, source, here, decoded)

    @pytest.mark.parametrize("pace", ["fast", "realtime"])
    def test_a_decoder_without_readers_to_wait_for_has_something_to_do(self, pace: str) -> None:
        assert self.pending(pace, decode=Position(1, 9)) == {"decode"}
        assert self.pending(pace, decode=Position(1, 9), decoded=True) == set()

    def test_nothing_is_expected_of_a_camera(self) -> None:
        source = SourceSpec("a", Request("", live=True), past=0, credit=4, slots=4, pace="fast")
        at = dict.fromkeys(("decode", "detect", "cache", "side"), Position(1, 9))
        assert pending_stages(self.STAGES, source, at, False) == set()

    @pytest.mark.parametrize("limit", [1, 2, 3, 4, 32, 1024])
    def test_it_sleeps_until_its_low_water(self, limit: int) -> None:
        credit = Credit(limit)
        for seq in range(limit):
            credit.take(Position(1, seq))
        credit.release(credit.low_water)
        assert still_unread(limit) == len(credit)

    @pytest.mark.parametrize(("ahead", "waits"), [(7, False), (8, True), (31, True)])
    def test_a_decoder_that_waits_for_a_slow_reader_is_not_hung(
        self, ahead: int, waits: bool
    ) -> None:
        found = self.pending(decode=Position(1, 40), cache=Position(1, 40 - ahead))
        assert found == ({"cache"} if waits else {"cache", "decode"})

    def test_an_old_epoch_that_is_still_read_is_waited_for(self) -> None:
        old = Position(1, 500)
        found = self.pending(decode=Position(2, 31), detect=old, cache=old)
        assert found == {"detect"}

    def test_nobody_waits_for_a_lossy_stage(self) -> None:
        found = self.pending(decode=Position(1, 400), side=Position(1, 0))
        assert found == {"side", "decode"}


class TestDeaths:
    PLACE = ("camera", "detect")
    EPOCHS: ClassVar[dict[str, int]] = {"camera": 1}

    def test_three_deaths_in_one_hand_set_the_record_aside(self) -> None:
        deaths, at = Deaths(), Position(1, 5)
        positions = {self.PLACE: Position(1, 4)}
        for n in range(LIMIT):
            assert deaths.died({self.PLACE: at}, positions, self.EPOCHS) == (
                [(self.PLACE, at)] if n == LIMIT - 1 else []
            )
        assert deaths.set_aside == {(self.PLACE, at)}

    def test_a_position_that_moves_on_clears_the_record(self) -> None:
        deaths = Deaths()
        for seq in range(20):
            positions = {self.PLACE: Position(1, seq - 1)}
            assert deaths.died({self.PLACE: Position(1, seq)}, positions, self.EPOCHS) == []

    def test_a_record_that_was_committed_is_not_blamed(self) -> None:
        deaths, at = Deaths(), Position(1, 5)
        for _ in range(5):
            assert deaths.died({self.PLACE: at}, {self.PLACE: at}, self.EPOCHS) == []

    def test_without_a_record_in_hand_nobody_is_blamed(self) -> None:
        deaths = Deaths()
        for _ in range(10):
            assert deaths.died({}, {self.PLACE: Position(1, 4)}, self.EPOCHS) == []
        assert deaths.careful_until == {"camera": Position(1, 4 + CAREFUL_FRAMES)}

    def test_what_was_passed_is_forgotten(self) -> None:
        deaths, at = Deaths(), Position(1, 5)
        for _ in range(LIMIT):
            deaths.died({self.PLACE: at}, {self.PLACE: Position(1, 4)}, self.EPOCHS)
        deaths.died({}, {self.PLACE: Position(1, 6)}, self.EPOCHS)
        assert deaths.set_aside == set()

    CAMERA = ("camera", "decode")

    def test_a_camera_is_set_aside_after_three_connections_in_whose_hand_workers_died(self) -> None:
        deaths = Deaths()
        for epoch in range(1, LIMIT + 1):
            at, stands = Position(epoch, 3), {self.CAMERA: Position(epoch, 2)}
            guilty = deaths.died({self.CAMERA: at}, stands, {"camera": epoch}, {"camera"})
            assert guilty == ([(self.CAMERA, at)] if epoch == LIMIT else [])

    def test_a_connection_that_went_well_clears_a_camera(self) -> None:
        deaths = Deaths()
        for epoch in range(1, 20, 2):
            well = {self.CAMERA: Position(epoch, CAREFUL_FRAMES)}
            assert deaths.died({}, well, {"camera": epoch}, {"camera"}) == []
            stands = {self.CAMERA: Position(epoch + 1, 2)}
            in_hand = {self.CAMERA: Position(epoch + 1, 3)}
            assert deaths.died(in_hand, stands, {"camera": epoch + 1}, {"camera"}) == []

    def test_a_source_that_was_taken_over_is_forgotten(self) -> None:
        deaths, at = Deaths(), Position(1, 5)
        for _ in range(LIMIT):
            deaths.died({self.PLACE: at}, {self.PLACE: Position(1, 4)}, self.EPOCHS)
        assert deaths.died({}, {}, {}) == []
        assert deaths.set_aside == set()

    def test_deaths_between_which_a_position_moved_bear_fruit(self) -> None:
        deaths = Deaths()
        for n in range(5):
            deaths.died({}, {self.PLACE: Position(1, 4)}, self.EPOCHS)
            assert deaths.fruitless == n + 1
        deaths.died({}, {self.PLACE: Position(1, 5)}, self.EPOCHS)
        assert deaths.fruitless == 1


@given(st.integers(1, 2000), st.floats(0, 1))
def test_backoff_stays_between_half_of_first_and_most(failures: int, chance: float) -> None:
    backoff = Backoff(first_s=0.1, most_s=3.0)
    assert 0.05 <= backoff.delay_s(failures, chance) <= 3.0
    assert backoff.delay_s(failures, 0.5) <= backoff.delay_s(failures + 1, 0.5)


@given(st.lists(st.floats(0.001, 100.0), min_size=1), st.sampled_from([0.5, 0.95, 0.99]))
def test_percentiles_are_right_to_within_a_bucket(seconds: list[float], share: float) -> None:
    counters: dict[str, int] = {"published": len(seconds)}
    for value in seconds:
        counters[bucket(value)] = counters.get(bucket(value), 0) + 1
    rank = max(0, -(-len(seconds) * share // 1) - 1)
    exact = sorted(seconds)[int(rank)]
    found = percentile(counters, share)
    assert found is not None
    assert found / 1.13 <= exact <= found * 1.13


def test_no_latency_before_the_first_frame_and_none_without_a_bucket() -> None:
    assert percentile({"published": 0}, 0.5) is None
    assert bucket(0.0) == "latency:0"
    assert bucket(1e9) == f"latency:{len(BOUNDS_S)}"
