"""The breaker's states, on a clock of the test's own."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from framegate.pipeline.system.retry import Breaker


def failing(times: int, now_s: float = 0.0) -> Breaker:
    breaker = Breaker()
    for _ in range(times):
        breaker = breaker.failed(now_s, 1.0)
    return breaker


def test_it_opens_at_the_third_failure_in_a_row() -> None:
    assert failing(2).state == "closed"
    assert failing(2).lets_out(0.0)
    assert failing(2).answered().failed(0.0, 1.0).state == "closed"
    assert failing(3).state == "open"
    assert not failing(3).lets_out(0.49)


def test_one_probe_goes_out_and_its_answer_closes_it() -> None:
    breaker = failing(3)
    assert breaker.lets_out(0.5)
    probing = breaker.sent()
    assert probing.state == "half_open"
    assert not probing.lets_out(1e9)
    assert probing.answered() == Breaker()


def test_a_probe_that_fails_doubles_the_rest_up_to_ten_seconds() -> None:
    breaker, rests = failing(3), []
    for _ in range(8):
        now = breaker.until_s
        breaker = breaker.sent().failed(now, 1.0)
        rests.append(breaker.until_s - now)
    assert rests == [1.0, 2.0, 4.0, 8.0, 10.0, 10.0, 10.0, 10.0]


def test_failures_of_what_went_out_before_do_not_lengthen_the_rest() -> None:
    assert failing(20) == failing(3)


def test_it_knows_since_when_the_place_fails() -> None:
    assert Breaker().since_s is None
    breaker = Breaker().failed(5.0, 1.0)
    assert breaker.failed(7.0, 1.0).since_s == 5.0
    assert breaker.failed(7.0, 1.0).failed(9.0, 1.0).sent().since_s == 5.0
    assert breaker.answered().failed(8.0, 1.0).since_s == 8.0


def test_chance_halves_the_rest_at_most() -> None:
    breaker = failing(2)
    assert (breaker.failed(0.0, 0.0).until_s, breaker.failed(0.0, 1.0).until_s) == (0.25, 0.5)


@given(
    st.lists(st.tuples(st.sampled_from(["ask", "answer", "fail"]), st.floats(0, 3)), max_size=60)
)
def test_at_most_one_is_out_while_it_is_not_closed(events: list[tuple[str, float]]) -> None:
    """And it always lets a probe out within ten seconds of the last failure."""
    breaker, now, probes = Breaker(), 0.0, 0
    for event, gap_s in events:
        now += gap_s
        if event == "ask" and breaker.lets_out(now):
            probes += breaker.state == "open"
            breaker = breaker.sent()
            assert breaker.state != "open"
        elif event == "answer":
            breaker, probes = breaker.answered(), 0
        elif event == "fail":
            breaker, probes = breaker.failed(now, 0.5), 0
        assert probes <= 1
        assert (probes == 1) == (breaker.state == "half_open")
        assert breaker.state == "half_open" or breaker.lets_out(now + 10.0)
