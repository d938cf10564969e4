"""The stage over blocks in real shared memory: every block told once, a function of the sound."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from framegate.pipeline.contracts import records
from framegate.pipeline.contracts.errors import FrameLost
from framegate.pipeline.contracts.records import Position, Record
from framegate.pipeline.contracts.results import Sounds
from framegate.pipeline.contracts.source import SOUND_RATE, Form, SoundBlock
from framegate.pipeline.contracts.stage import Item
from framegate.pipeline.shared_memory.frame_store import SoundStore, sound_store_bytes
from framegate.pipeline.shared_memory.mapping import make_shared_file
from framegate.stages.sound import Sound, SoundState
from framegate.testing import Harness

BLOCK = 7800
ALARM = "Smoke detector, smoke alarm"


class Bench:
    """A source whose sound a test puts block by block."""

    def __init__(self, live: bool = False, block: int = BLOCK, **options: Any) -> None:
        descriptor = make_shared_file(sound_store_bytes(block), "the test")
        self.store = SoundStore(descriptor, block)
        os.close(descriptor)
        harness = Harness(
            Sound,
            {"block": block, **options},
            before="decode",
            sound=lambda source, block: self.store,  # noqa: ARG005
            live=lambda source: live,  # noqa: ARG005
        )
        self.stage = harness.stage
        self.close = harness.close
        self.state = SoundState()
        self.block = block

    def put(self, number: int, samples: np.ndarray, follows: bool = True, epoch: int = 1) -> None:
        begins_s = number * self.block / SOUND_RATE
        data = samples.astype(np.float32).tobytes()
        self.store.put(epoch, SoundBlock(number, begins_s, follows and number > 0, data), 1)

    def said(self, first: int, n: int, seq: int = 0, epoch: int = 1) -> Sounds:
        form = Form(16, 16)
        record = Record(1, 0.0, 0.0, 0.0, seq, form, sound=(first, n))
        output, self.state = self.stage.each(Item("a", Position(epoch, seq), record), self.state)
        assert output is not None
        return output


OpenBench = Callable[..., Bench]


@pytest.fixture
def opened() -> Iterator[OpenBench]:
    made: list[Bench] = []

    def open_bench(**options: Any) -> Bench:
        made.append(Bench(**options))
        return made[-1]

    yield open_bench
    for bench in made:
        bench.close()


@pytest.fixture
def bench(opened: OpenBench) -> Bench:
    return opened()


TONE = 0.3 * np.sin(2 * np.pi * 400 * np.arange(BLOCK) / SOUND_RATE)  # whole periods


def alarm(number: int, n: int = BLOCK) -> np.ndarray:
    times = (np.arange(n) + number * n) / SOUND_RATE
    return 0.5 * np.sin(2 * np.pi * 3100 * times) * (times % 0.325 < 0.2)


def test_a_frame_without_sound_says_nothing(bench: Bench) -> None:
    item = Item("a", Position(1, 0), Record(1, 0.0, 0.0, 0.0, 0, Form(16, 16)))
    assert bench.stage.each(item, bench.state) == (None, bench.state)


def test_an_alarm_is_heard_and_silence_is_not_looked_at(bench: Bench) -> None:
    for number in range(4):
        bench.put(number, alarm(number) if number < 2 else np.zeros(BLOCK))
    first = bench.said(0, 2)
    later = bench.said(2, 2)
    assert [w.block for w in (*first.windows, *later.windows)] == [0, 1, 2, 3]
    assert [w.outcome for w in (*first.windows, *later.windows)] == [
        "heard",
        "heard",
        "heard",
        "quiet",
    ]
    assert first.windows[1].ends_s == pytest.approx(0.975)
    assert first.windows[1].begins_s == pytest.approx(0.0)
    assert first.model.startswith("yamnet-f32@")
    best = max(one.score for w in first.windows for one in w.labels)
    assert best > 0.5
    assert later.windows[1].labels == ()
    assert later.windows[1].level_db == -120.0


def test_what_goes_on_keeps_its_labels_until_they_are_too_old(opened: OpenBench) -> None:
    bench = opened(most_age_s=1.0)
    for number in range(6):
        bench.put(number, TONE)
    windows = bench.said(0, 6).windows
    assert [w.outcome for w in windows] == [
        "heard",
        "heard",
        "unchanged",
        "unchanged",
        "heard",
        "unchanged",
    ]
    assert [w.age_s for w in windows] == pytest.approx([0, 0, 0.4875, 0.975, 0, 0.4875], abs=1e-3)
    assert windows[2].labels == windows[1].labels != ()


def test_only_labels_that_are_asked_for_are_told(opened: OpenBench) -> None:
    whole, part = opened(), opened(labels=(ALARM,))
    for bench in (whole, part):
        for number in range(2):
            bench.put(number, alarm(number))
    everything, asked = whole.said(0, 2).windows[1], part.said(0, 2).windows[1]
    assert {one.label for one in asked.labels} == {ALARM}
    assert set(asked.labels) < set(everything.labels)


@pytest.mark.parametrize("hop", [1600, 5200, 7800, 15600, 24000])
def test_windows_are_the_last_samples_whatever_the_hop(hop: int, opened: OpenBench) -> None:
    """The same stretch of sound, cut otherwise, is judged the same."""
    sound = alarm(0, 48_000)
    bench = opened(block=hop, most_age_s=0.0)
    blocks = 48_000 // hop
    for number in range(blocks):
        bench.put(number, sound[number * hop : (number + 1) * hop])
    last = bench.said(0, blocks).windows[-1]
    whole = opened(block=15600, most_age_s=0.0)
    end = blocks * hop
    whole.put(0, sound[end - 15600 : end])
    assert last.labels == whole.said(0, 1).windows[0].labels


def test_after_a_gap_silence_stands_for_what_was_not_there(bench: Bench, opened: OpenBench) -> None:
    alone = opened()
    bench.put(0, alarm(0))
    bench.put(1, alarm(1), follows=False)
    alone.put(0, alarm(1))
    assert bench.said(0, 2).windows[1].labels == alone.said(0, 1).windows[0].labels


def test_blocks_that_were_missed_or_are_gone_are_told_as_lost(
    opened: OpenBench,
) -> None:
    bench = opened(live=True)
    bench.put(0, alarm(0))
    assert bench.said(0, 1).lost == 0
    bench.put(5, alarm(5))
    told = bench.said(4, 2)
    assert (told.lost, [w.block for w in told.windows]) == (4, [5])  # 1 to 3 missed, 4 gone


def test_a_files_sound_that_is_not_there_yet_is_waited_for(bench: Bench) -> None:
    bench.put(1, alarm(1))
    with pytest.raises(FrameLost):
        bench.said(1, 1)


def test_another_epoch_knows_nothing_of_the_one_before(bench: Bench) -> None:
    for number in range(3):
        bench.put(number, TONE)
    assert bench.said(0, 3).windows[2].outcome == "unchanged"
    bench.put(0, TONE, epoch=2)
    again = bench.said(0, 1, epoch=2)
    assert (again.lost, again.windows[0].outcome) == (0, "heard")


def test_the_state_is_small(bench: Bench) -> None:
    for number in range(2):
        bench.put(number, alarm(number))
    bench.said(0, 2)
    assert len(records.encode(bench.state)) < 1024
