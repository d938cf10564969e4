"""How old entries of a stream are, for one who looks at it now and then."""

from __future__ import annotations

import random

import msgspec

from framegate.pipeline.contracts.records import START, Position
from framegate.pipeline.system.clocks import NOTES, FirstSeen, look, old_until
from tests.support.host_clocks import SimulatedHost

AGE_S = 3600.0


def test_entries_are_old_once_they_were_seen_for_so_long() -> None:
    host = SimulatedHost(1_790_000_000.0)
    assert old_until(None, host(), AGE_S) == START
    seen = look(None, Position(1, 5), host(), AGE_S)
    host.passes(AGE_S / 2)
    seen = look(seen, Position(1, 9), host(), AGE_S)
    assert old_until(seen, host(), AGE_S) == START
    host.passes(AGE_S / 2)
    assert old_until(seen, host(), AGE_S) == Position(1, 5)
    host.passes(AGE_S / 2)
    assert old_until(seen, host(), AGE_S) == Position(1, 9)


def test_an_empty_stream_has_nothing_old() -> None:
    host = SimulatedHost(1_790_000_000.0)
    seen = look(None, START, host(), AGE_S)
    host.passes(2 * AGE_S)
    assert old_until(look(seen, START, host(), AGE_S), host(), AGE_S) == START


def test_no_entry_is_taken_for_older_than_it_is_and_none_for_much_younger() -> None:
    """A stream that grows at random, looked at at random, while the wall clock steps at random."""
    rng = random.Random(4)
    host, seen = SimulatedHost(1_790_000_000.0), None
    stored: list[float] = []  # seconds since the beginning, of each entry
    passed = longest = 0.0
    for _ in range(3000):
        seconds = rng.expovariate(1 / 20)
        host.passes(seconds)
        passed, longest = passed + seconds, max(longest, seconds)
        if rng.random() < 0.01:
            host.steps(rng.choice((-3600.0, 3600.0, 3e8, -3e8)))
        if rng.random() < 0.7:
            stored.append(passed)
        seen = look(seen, Position(1, len(stored) - 1), host(), AGE_S)
        seen = msgspec.msgpack.decode(msgspec.msgpack.encode(seen), type=FirstSeen)
        assert len(seen.notes) <= NOTES + 2
        old = old_until(seen, host(), AGE_S).seq
        for seq in (old, max(0, old - 5)):
            assert old_until(seen, host(), AGE_S) == START or passed - stored[seq] >= AGE_S - 1e-3
        late = AGE_S * (1 + 1 / NOTES) + 2 * longest
        assert all(passed - stored[seq] < late for seq in range(old + 1, len(stored)))
