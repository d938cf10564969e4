"""Usual sizes by place in the group, against figures by hand."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from framegate.stages.decode.usual_sizes import CalmGroup, UsualSizes

P, B = 1, 2
KEY_BYTES = 20_000
FALLING = (3000, 2000, 1000, 600, 500, 500, 500, 500, 500)  # noise is coded again after a key frame


def learned(groups: int, sizes: tuple[int, ...] = FALLING, kind: int = P) -> UsualSizes:
    usual = UsualSizes()
    for _ in range(groups):
        usual = usual.after(CalmGroup(KEY_BYTES, tuple((kind, size) for size in sizes)))
    return usual


def is_large(usual: UsualSizes, sizes: tuple[int, ...]) -> list[bool]:
    """Return, after each packet of a group, whether the newest packets are large."""
    excesses = [usual.excess(P, place, size) for place, size in enumerate(sizes)]
    return [usual.is_large(excesses[max(0, end - 8) : end]) for end in range(1, len(sizes) + 1)]


def test_each_place_has_its_own_usual_size() -> None:
    usual = learned(4)
    assert not any(is_large(usual, FALLING))
    raised = (*FALLING[:5], 1000, *FALLING[6:])  # usual at place 2, not at place 5
    assert is_large(usual, raised).index(True) == 5


def test_many_packets_that_are_a_little_larger_are_large_together() -> None:
    usual = learned(4)
    larger = tuple(round(1.25 * size) for size in FALLING)  # each less than e ** 0.3 = 1.35 times
    assert is_large(usual, larger)[:2] == [False, False]
    assert is_large(usual, larger)[2]  # log 1.25 = .22 is above .3 / sqrt(3) = .17


@given(st.integers(1, 100_000))
def test_one_packet_is_large_from_the_margin_on(size: int) -> None:
    usual = learned(4)
    ratio = math.log(size + 40) - math.log(500 + 40)
    if abs(ratio - 0.3) > 1e-9:
        assert usual.is_large([usual.excess(P, 5, size)]) == (ratio > 0.3)


def test_a_kind_is_known_after_some_groups() -> None:
    assert not learned(2).knows(P)
    assert learned(3).knows(P)
    assert not learned(3).knows(B)
    assert learned(3).excess(B, 0, 10**6) == 0.0
    # A place that no group had takes the usual size of its kind.
    assert learned(3).excess(P, 50, 500) == pytest.approx(0.0)


def test_something_that_came_and_went_does_not_raise_the_limits() -> None:
    calm = learned(9)
    passed = tuple(10 * size for size in FALLING)
    usual = calm
    for _ in range(2):
        usual = usual.after(CalmGroup(KEY_BYTES, tuple((P, size) for size in passed)))
    assert usual.limits == pytest.approx(calm.limits)


def test_sizes_that_vary_by_much_of_a_key_frame_show_nothing() -> None:
    assert learned(5).shows
    usual = UsualSizes()
    for number in range(8):
        sizes = tuple((P, 5000 + 1500 * (-1) ** (number + place)) for place in range(9))
        usual = usual.after(CalmGroup(KEY_BYTES, sizes))
    assert not usual.shows
    assert not UsualSizes().shows
