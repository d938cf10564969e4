"""When packets are held and what wakes a source, as pure functions of the packets."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from framegate.stages.decode import calm
from framegate.stages.decode.calm import BLIND_S, Calm, PacketFacts, PictureGroup
from framegate.stages.decode.usual_sizes import UsualSizes

P, HOLD_S, PERIOD_S = 1, 5.0, 0.1


def key_at(seconds: float | None, *, closed: bool = True) -> PacketFacts:
    return PacketFacts(seconds, 20_000, closed, 5)


def group_of(begins_s: float, sizes: list[int], usual: UsualSizes) -> PictureGroup:
    group = calm.group_at(key_at(begins_s))
    assert group is not None
    for number, size in enumerate(sizes, 1):
        packet = PacketFacts(begins_s + number * PERIOD_S, size, False, P)
        group = calm.with_packet(group, packet, usual)
    return group


def calmed(groups: int = 10, size: int = 100) -> Calm:
    """Return the state after quiet groups of 10 frames, of one second each."""
    state = Calm()
    for number in range(groups):
        group = group_of(float(number), [size] * 9, state.usual)
        state = calm.after_group(state, group, True, HOLD_S)
    return state


def test_a_source_is_calm_after_some_quiet_seconds_with_known_sizes() -> None:
    # Three groups teach the sizes, so the fourth is the first quiet one.
    assert calmed(3).quiet_since_s is None
    assert calmed(7).quiet_since_s == 3.0
    assert not calmed(6).is_calm(6.0)
    assert calmed(7).is_calm(7.0)


def test_a_source_whose_clock_goes_back_is_calm_after_the_usual_time() -> None:
    state = calmed(5)
    for number in range(5):
        group = group_of(number - 3600.0, [100] * 9, state.usual)
        state = calm.after_group(state, group, True, HOLD_S)
    assert state.is_calm(5 - 3600.0)


@given(st.lists(st.integers(1, 100_000), min_size=1, max_size=30))
def test_size_wakes_at_the_first_large_packet_and_never_keeps_asleep(sizes: list[int]) -> None:
    state = calmed()
    group = calm.group_at(key_at(20.0))
    assert group is not None
    for number, size in enumerate(sizes, 1):
        packet = PacketFacts(20.0 + number * PERIOD_S, size, False, P)
        group = calm.with_packet(group, packet, state.usual)
        reason = calm.reason_to_wake(state, group, packet, HOLD_S, is_asked=False)
        is_large = any(before > 149 for before in sizes[:number])  # (100 + 40) * e ** 0.3 - 40
        assert reason == "size" or not is_large
        if all(before <= 100 for before in sizes[:number]):
            assert reason is None
        asked = calm.reason_to_wake(state, group, packet, HOLD_S, is_asked=True)
        assert asked == "asked"  # however small the packets are


@given(st.lists(st.floats(0.01, 20.0), min_size=1, max_size=40), st.floats(0.1, 10.0))
def test_no_packet_is_held_longer_than_the_bound(steps: list[float], hold_s: float) -> None:
    state, now_s = calmed(), 0.0
    group = calm.group_at(key_at(0.0))
    assert group is not None
    for step in steps:
        now_s += step
        packet = PacketFacts(now_s, 100, False, P)
        group = calm.with_packet(group, packet, state.usual)
        reason = calm.reason_to_wake(state, group, packet, hold_s, is_asked=False)
        assert (reason == "bound") == (now_s > hold_s)
        next_key = calm.reason_at_key(group, key_at(now_s + 0.01), hold_s, is_asked=False)
        assert (next_key == "bound") == (now_s + 0.01 > hold_s)


def test_a_group_may_be_held_until_it_is_long_large_or_odd() -> None:
    group = group_of(0.0, [100] * 50, UsualSizes())
    assert calm.may_hold(group, HOLD_S)
    assert not calm.may_hold(group, 4.9)
    assert not calm.may_hold(group_of(0.0, [1 << 20] * 9, UsualSizes()), HOLD_S)
    assert not calm.may_hold(group_of(0.0, [10] * 512, UsualSizes()), 60.0)
    assert not calm.may_hold(replace(group, is_sound=False), HOLD_S)


@given(st.lists(st.one_of(st.none(), st.floats(-5.0, 5.0)), min_size=1, max_size=20))
def test_time_stamps_out_of_order_wake(stamps: list[float | None]) -> None:
    state = calmed()
    group = calm.group_at(key_at(0.0))
    assert group is not None
    for seconds in stamps:
        packet = PacketFacts(seconds, 100, False, P)
        group = calm.with_packet(group, packet, state.usual)
        if seconds is None or seconds <= 0:
            break
    is_odd = any(seconds is None or seconds <= 0 for seconds in stamps)
    reason = calm.reason_to_wake(state, group, packet, HOLD_S, is_asked=False)
    assert (reason == "order") == is_odd


def test_a_group_is_no_reason_for_calm_if_anything_about_it_is_odd() -> None:
    state = calmed()
    quiet = group_of(10.0, [100] * 9, state.usual)
    assert calm.after_group(state, quiet, True, HOLD_S).quiet_since_s == 3.0
    odd = [
        (quiet, False),  # the next key frame differs
        (group_of(10.0, [100] * 8 + [5000], state.usual), True),
        (group_of(10.0, [100] * 60, state.usual), True),  # longer than the bound
        (calm.group_at(key_at(10.0, closed=False)), True),
    ]
    for group, is_alike in odd:
        assert group is not None
        assert calm.after_group(state, group, is_alike, HOLD_S).quiet_since_s is None


def test_only_groups_that_changed_nothing_teach_sizes() -> None:
    state = calmed()
    loud = group_of(10.0, [4000] * 9, state.usual)
    assert calm.after_group(state, loud, False, HOLD_S).usual is state.usual
    # Nightfall: noise makes every packet large although the key frames are alike. Each such group
    # wakes the source, and raises the limit until it does not.
    assert loud.is_large
    for number in range(12):
        loud = group_of(11.0 + number, [4000] * 9, state.usual)
        state = calm.after_group(state, loud, True, HOLD_S)
    assert not group_of(30.0, [4000] * 9, state.usual).is_large


def test_where_sizes_show_nothing_only_short_groups_are_held() -> None:
    """A constant bit rate: packets of a quarter of the key frame, whatever is in them."""
    state = Calm()
    for number in range(8):
        sizes = [5000 + 1500 * (-1) ** (number + place) for place in range(9)]
        group = group_of(float(number), sizes, state.usual)
        state = calm.after_group(state, group, True, HOLD_S)
    assert not state.usual.shows
    assert state.longest_s(HOLD_S) == BLIND_S
    assert calmed().longest_s(HOLD_S) == HOLD_S
    assert calmed().longest_s(0.5) == 0.5


def test_an_open_or_changed_key_frame_is_not_compared() -> None:
    group = group_of(0.0, [100] * 9, UsualSizes())
    assert calm.reason_at_key(group, key_at(1.0), HOLD_S, is_asked=False) is None
    for key in (
        key_at(1.0, closed=False),
        key_at(None),
        key_at(0.5),
        key_at(1.0)._replace(is_sound=False),
    ):
        assert calm.reason_at_key(group, key, HOLD_S, is_asked=False) == "order"
