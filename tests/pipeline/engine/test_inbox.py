"""What waits for a stage: nothing is lost, doubled, reordered or starved."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from framegate.pipeline.contracts.records import VERSION, End, Position, Record
from framegate.pipeline.contracts.source import Form
from framegate.pipeline.contracts.stage import Item
from framegate.pipeline.engine.hosted_stage import by_arrival
from framegate.pipeline.engine.inbox import Arrival, Inbox


def frame(seq: int, arrived: float, epoch: int = 1) -> Arrival:
    record = Record(VERSION, None, 0.0, arrived, seq, Form(2, 2))
    return Arrival(Position(epoch, seq), record)


def end(seq: int) -> Arrival:
    return Arrival(Position(1, seq), End(VERSION, seq, last=True))


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


def undecoded(seq: int) -> Arrival:
    record = Record(VERSION, None, 0.0, 0.0, 0, Form(16, 8), undecoded=True)
    return Arrival(Position(1, seq), record)


@given(st.lists(st.booleans(), max_size=80), st.integers(1, 8))
def test_sixteen_frames_that_were_not_decoded_count_as_one(kinds: list[bool], max_: int) -> None:
    arrivals = []
    for seq, is_decoded in enumerate(kinds):
        arrivals.append(frame(seq, 0.0) if is_decoded else undecoded(seq))
    inbox = Inbox()
    inbox.add("a", arrivals)
    taken = []
    while inbox.count("a"):
        batch = inbox.take(max_, {})["a"]
        *others, _ = batch  # the last one may exceed the rest of the budget
        assert sum(1 / 16 if each.record.undecoded else 1 for each in others) < max_
        taken += batch
    assert taken == arrivals
    if len(arrivals) and sum(kinds) + (len(kinds) - sum(kinds)) / 16 <= max_:
        assert len(batch) == len(arrivals)
