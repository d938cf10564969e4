"""When packets are held and what wakes a source, as pure functions of the packets."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from framegate.stages.decode import calm
from framegate.stages.decode.calm import Calm, Group, PacketFacts, SizeLimits

P, HOLD_S, PERIOD_S = 1, 5.0, 0.1


def key_at(seconds: float | None, *, closed: bool = True) -> PacketFacts:
    return PacketFacts(seconds, 20_000, closed, 5)


def group_of(begins_s: float, sizes: list[int], limits: SizeLimits) -> Group:
    group = calm.group_at(key_at(begins_s))
    assert group is not None
    for number, size in enumerate(sizes, 1):
        packet = PacketFacts(begins_s + number * PERIOD_S, size, False, P)
        group = calm.with_packet(group, packet, limits)
    return group


def calmed(groups: int = 10, size: int = 100) -> Calm:
    """Return the state after quiet groups of 10 frames, of one second each."""
    state = Calm()
    for number in range(groups):
        group = group_of(float(number), [size] * 9, state.limits)
        state = calm.after_group(state, group, True, HOLD_S)
    return state


def test_a_source_is_calm_after_some_quiet_seconds_with_known_sizes() -> None:
    # The first group teaches the sizes of its nine packets, so the second is the first quiet one.
    assert calmed(1).quiet_since_s is None
    assert calmed(5).quiet_since_s == 1.0
    assert not calmed(4).is_calm(4.0)
    assert calmed(5).is_calm(5.0)


@given(size=st.integers(0, 1_000_000))
def test_a_packet_is_large_from_one_and_a_half_times_the_usual_size(size: int) -> None:
    limits = calmed().limits
    assert limits.is_large(P, size) == (size > 1.5 * 100 + 40)


@given(st.lists(st.integers(1, 100_000), min_size=1, max_size=30))
def test_size_wakes_at_the_first_large_packet_and_never_keeps_asleep(sizes: list[int]) -> None:
    state = calmed()
    group = calm.group_at(key_at(20.0))
    assert group is not None
    for number, size in enumerate(sizes, 1):
        packet = PacketFacts(20.0 + number * PERIOD_S, size, False, P)
        group = calm.with_packet(group, packet, state.limits)
        reason = calm.reason_to_wake(state, group, packet, HOLD_S, is_asked=False)
        is_large = any(before > 190 for before in sizes[:number])
        assert (reason == "size") == is_large
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
        group = calm.with_packet(group, packet, state.limits)
        reason = calm.reason_to_wake(state, group, packet, hold_s, is_asked=False)
        assert (reason == "bound") == (now_s > hold_s)
        next_key = calm.reason_at_key(group, key_at(now_s + 0.01), hold_s, is_asked=False)
        assert (next_key == "bound") == (now_s + 0.01 > hold_s)


@given(st.lists(st.one_of(st.none(), st.floats(-5.0, 5.0)), min_size=1, max_size=20))
def test_time_stamps_out_of_order_wake(stamps: list[float | None]) -> None:
    state = calmed()
    group = calm.group_at(key_at(0.0))
    assert group is not None
    for seconds in stamps:
        packet = PacketFacts(seconds, 100, False, P)
        group = calm.with_packet(group, packet, state.limits)
        if seconds is None or seconds <= 0:
            break
    is_odd = any(seconds is None or seconds <= 0 for seconds in stamps)
    reason = calm.reason_to_wake(state, group, packet, HOLD_S, is_asked=False)
    assert (reason == "order") == is_odd


def test_a_group_is_no_reason_for_calm_if_anything_about_it_is_odd() -> None:
    state = calmed()
    quiet = group_of(10.0, [100] * 9, state.limits)
    assert calm.after_group(state, quiet, True, HOLD_S).quiet_since_s == 1.0
    odd = [
        (quiet, False),  # the next key frame differs
        (group_of(10.0, [100] * 8 + [5000], state.limits), True),
        (group_of(10.0, [100] * 60, state.limits), True),  # longer than the bound
        (calm.group_at(key_at(10.0, closed=False)), True),
    ]
    for group, is_alike in odd:
        assert group is not None
        assert calm.after_group(state, group, is_alike, HOLD_S).quiet_since_s is None


def test_only_groups_that_changed_nothing_teach_sizes() -> None:
    state = calmed()
    loud = group_of(10.0, [4000] * 9, state.limits)
    assert calm.after_group(state, loud, False, HOLD_S).limits is state.limits
    # Nightfall: noise makes every packet large although the key frames are alike. Each such group
    # wakes the source, and raises the limit until it does not.
    limits = [state.limits.kinds[P].limit]
    for number in range(4):
        loud = group_of(11.0 + number, [4000] * 9, state.limits)
        state = calm.after_group(state, loud, True, HOLD_S)
        limits.append(state.limits.kinds[P].limit)
    assert all(before <= after for before, after in pairwise(limits))
    assert not state.limits.is_large(P, 4000)


def test_an_open_or_changed_key_frame_is_not_compared() -> None:
    group = group_of(0.0, [100] * 9, SizeLimits())
    assert calm.reason_at_key(group, key_at(1.0), HOLD_S, is_asked=False) is None
    for key in (
        key_at(1.0, closed=False),
        key_at(None),
        key_at(0.5),
        key_at(1.0)._replace(is_sound=False),
    ):
        assert calm.reason_at_key(group, key, HOLD_S, is_asked=False) == "order"
