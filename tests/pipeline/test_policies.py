"""Pure policies: who has something to do, blame for deaths, backoff, latency buckets."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from framegate.pipeline.contracts.records import Position
from framegate.pipeline.contracts.spec import CAREFUL_FRAMES, SourceSpec, StageSpec
from framegate.pipeline.engine.control_messages import RecordInHand, SharedMemory
from framegate.pipeline.ingest.credit import (
    Credit,
    still_unread,
)
from framegate.pipeline.run.restarts import LIMIT, Deaths
from framegate.pipeline.run.store_probe import pending_stages
from framegate.pipeline.run.worker_handle import WorkerHandle
from framegate.pipeline.system.retry import Backoff
from framegate.pipeline.telemetry.histograms import BOUNDS_S, bucket, percentile


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
        source = SourceSpec("", name="a", past=0, credit=32, slots=32, pace=pace)
        here = {"detect": at["decode"], "cache": at["decode"], "side": at["decode"], **at}
        return pending_stages(self.STAGES, source, here, decoded)

    @pytest.mark.parametrize("pace", ["fast", "realtime"])
    def test_a_decoder_without_readers_to_wait_for_has_something_to_do(self, pace: str) -> None:
        assert self.pending(pace, decode=Position(1, 9)) == {"decode"}
        assert self.pending(pace, decode=Position(1, 9), decoded=True) == set()

    def test_nothing_is_expected_of_a_camera(self) -> None:
        source = SourceSpec("", True, name="a", past=0, credit=4, slots=4, pace="fast")
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

    def test_a_record_that_waits_for_an_answer_is_not_blamed_for_a_later_one(self) -> None:
        """A waiting record stays announced, and is announced again at each try."""
        other = ("file", "detect")
        waiting, deadly = Position(1, 5), Position(1, 9)
        positions = {self.PLACE: Position(1, 4), other: Position(1, 8)}
        epochs = {"camera": 1, "file": 1}
        deaths = Deaths()
        worker = WorkerHandle("w", ["detect"], lambda *_: None, lambda _: (SharedMemory(), None))
        guilty = []
        for _ in range(LIMIT):
            worker.in_hand.clear()
            for place, at in ((self.PLACE, waiting), (other, deadly), (self.PLACE, waiting)):
                worker._note_in_hand(RecordInHand(*place, at))
            assert list(worker.in_hand) == [other, self.PLACE]
            worker._note_in_hand(RecordInHand(*other, deadly))
            guilty = deaths.died(worker.in_hand, positions, epochs)
        assert guilty == [(other, deadly)]
        assert deaths.set_aside == {(other, deadly)}

    def test_a_position_that_moves_on_clears_the_record(self) -> None:
        deaths = Deaths()
        for seq in range(20):
            positions = {self.PLACE: Position(1, seq - 1)}
            assert deaths.died({self.PLACE: Position(1, seq)}, positions, self.EPOCHS) == []

    def test_who_gets_on_is_started_at_once_and_who_does_not_ever_later(self) -> None:
        deaths, rests = Deaths(), []
        for seq in range(30):
            deaths.died({}, {self.PLACE: Position(1, seq)}, self.EPOCHS)
            assert deaths.rest_s(1.0) == 0.0
        for _ in range(12):
            deaths.died({}, {self.PLACE: Position(1, 29)}, self.EPOCHS)
            rests.append(deaths.rest_s(1.0))
        assert rests == sorted(rests)
        assert rests[0] == 0.1
        assert rests[-1] == 30.0
        deaths.died({}, {self.PLACE: Position(1, 30)}, self.EPOCHS)
        assert deaths.rest_s(1.0) == 0.0
        for _ in range(2):
            deaths.died_unseen()
        assert deaths.rest_s(1.0) > 0.0

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
    assert found / 1.26 <= exact <= found * 1.26


def test_no_latency_before_the_first_frame_and_none_without_a_bucket() -> None:
    assert percentile({"published": 0}, 0.5) is None
    assert bucket(0.0) == "latency:0"
    assert bucket(1e9) == f"latency:{len(BOUNDS_S)}"


def test_masks_in_pixels_of_the_large_picture_are_not_used_on_the_small_one() -> None:
    mask = ((0.0, 0.0), (640.0, 0.0), (640.0, 360.0))
    large, small = "rtsp://camera.example/1", "rtsp://camera.example/2"
    plain: dict[str, Any] = {"name": "a", "past": 0, "credit": 4, "slots": 4, "pace": "fast"}
    alone = SourceSpec(large, True, unwatched=(mask,), **plain)
    pair = SourceSpec(large, True, look_at=small, unwatched=(mask,), **plain)
    assert alone.decoded() == alone
    assert pair.decoded() == SourceSpec(small, True, **plain)
