"""Windows against a second, naive implementation that keeps every frame that ever came."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import hypothesis.strategies as st
import pytest
from hypothesis import given

from framegate.pipeline.contracts import records
from framegate.pipeline.contracts.records import Position, Record
from framegate.pipeline.contracts.source import Form
from framegate.pipeline.contracts.stage import Item
from framegate.pipeline.engine.context_alone import context_alone
from framegate.stages.window import (
    Window,
    WindowDelta,
    WindowOptions,
    WindowState,
    slide,
)

Place = tuple[int, int]


def naive(seen: Sequence[Place], size: int) -> list[Place]:
    """The window after all of `seen`: the last `size` frames of the newest epoch."""
    newest = [place for place in seen if place[0] == seen[-1][0]]
    return newest[-size:]


@st.composite
def journeys(draw: st.DrawFn) -> list[Place]:
    """Positions of one source: epochs that grow, seqs that grow and may leave dropped ones out."""
    places: list[Place] = []
    epoch = 0
    for length in draw(st.lists(st.integers(1, 12), min_size=1, max_size=4)):
        epoch += draw(st.integers(1, 3))
        seq = draw(st.integers(0, 3))
        for _ in range(length):
            places.append((epoch, seq))
            seq += draw(st.integers(1, 3))
    return places


@given(journeys(), st.integers(1, 10))
def test_deltas_give_the_naive_windows(places: list[Place], size: int) -> None:
    state = WindowState()
    held: list[Place] = []
    for count, place in enumerate(places, 1):
        delta, state = slide(state, place, size)
        assert held[: len(delta.released)] == list(delta.released)
        held = [*held[len(delta.released) :], delta.added]
        assert held == naive(places[:count], size)
        assert delta.held == len(held)
        assert delta.first == held[0][1]
        assert [(state.epoch, seq) for seq in state.frames()] == held


def no_pixels(item: Item) -> NoReturn:
    raise AssertionError(f"window looked at the pixels of {item.position}")


def window(size: int) -> Window:
    return Window(WindowOptions(size), context_alone(no_pixels, lambda: 0.0, Path(), "decode"))


def item(source: str, place: Place) -> Item:
    record = Record(v=1, pts=0.0, captured=0.0, arrived=0.0, number=0, form=Form(2, 2))
    return Item(source, Position(*place), record)


@given(st.lists(journeys(), min_size=1, max_size=3), st.integers(1, 6), st.data())
def test_batches_and_company_change_nothing(
    several: list[list[Place]], size: int, data: st.DataObject
) -> None:
    """However the frames of all sources are cut into batches, each source's deltas are its own."""
    alone = {f"s{n}": deltas(places, size) for n, places in enumerate(several)}
    waiting = {f"s{n}": list(places) for n, places in enumerate(several)}
    states = dict.fromkeys(waiting, WindowState())
    found: dict[str, list[WindowDelta]] = {source: [] for source in waiting}
    stage = window(size)
    while any(waiting.values()):
        sources = data.draw(
            st.lists(st.sampled_from([s for s, w in waiting.items() if w]), min_size=1, max_size=9)
        )
        batch = [item(s, waiting[s].pop(0)) for s in sources if waiting[s]]
        answers, after = stage.process(batch, states)
        states |= {s: records.decode(records.encode(v), WindowState) for s, v in after.items()}
        for each, answer in zip(batch, answers, strict=True):
            found[each.source].append(answer)
    assert found == alone


def deltas(places: Sequence[Place], size: int) -> list[WindowDelta]:
    state, answers = WindowState(), []
    for place in places:
        delta, state = slide(state, place, size)
        answers.append(delta)
    return answers


@given(journeys(), st.integers(1, 10), st.integers(1, 10), st.data())
def test_a_window_goes_on_where_an_older_framegate_left_it(
    places: list[Place], size: int, before: int, data: st.DataObject
) -> None:
    """It stored each frame's seq; and the length may have been another one."""
    cut = data.draw(st.integers(1, len(places)))
    held = naive(places[:cut], before)
    older = records.encode([held[-1][0], [seq for _, seq in held]])
    state = records.decode(older, WindowState)
    for count, place in enumerate(places[cut:], cut + 1):
        delta, state = slide(state, place, size)
        held = [*held[len(delta.released) :], delta.added]
        assert held == naive([*places[:cut][-before:], *places[cut:count]], size)
        assert (delta.first, delta.held) == (held[0][1], len(held))


@pytest.mark.parametrize("size", [32, 512])
def test_a_full_window_is_a_few_bytes_in_the_store(size: int) -> None:
    """What a hop stores of it, and what rides in the record, whatever its length."""
    state = WindowState()
    for seq in range(600):
        delta, state = slide(state, (3, 100_000 + seq), size)
    assert len(records.encode(state)) < 20
    assert len(records.encode(delta)) < 40
