"""Measure the cost of a look-up, with known answers and with inputs that never repeat."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks.harness.report import median_of_ratios, percentile
from framegate.models.boxes import Boxes
from framegate.models.detector.answer_cache import AnswerMemory, Later, Recall, RecentAnswers, Worth
from framegate.models.detector.detector import Detector
from framegate.models.detector.member import DetectorMember, KnownAnswer, Pending
from framegate.models.picture import NetworkInput, Picture

Row = dict[str, Any]
BLOCK = 32  # pictures in a row with, then as many without


class TimedRecall(Recall):
    """Sums what looking up and keeping takes of its thread: CPU-seconds, and seconds with waits."""

    def __init__(self, memory: AnswerMemory) -> None:
        super().__init__(memory)
        self.cpu_s = self.seconds = 0.0

    def ask(
        self, member: DetectorMember, prepared: NetworkInput
    ) -> Callable[[], Pending | KnownAnswer | Later]:
        """As Recall's."""
        with self._measured():
            start = super().ask(member, prepared)

        def timed() -> Pending | KnownAnswer | Later:
            under_way = start()
            if isinstance(under_way, Pending) and under_way.learn is not None:
                return replace(under_way, learn=self._timed(under_way.learn))
            return under_way

        return timed

    def _timed(self, learn: Callable[[Boxes | None], None]) -> Callable[[Boxes | None], None]:
        def timed(boxes: Boxes | None) -> None:
            with self._measured():
                learn(boxes)

        return timed

    @contextmanager
    def _measured(self) -> Iterator[None]:
        cpu, wall = time.thread_time(), time.perf_counter()
        yield
        self.cpu_s += time.thread_time() - cpu
        self.seconds += time.perf_counter() - wall


def look_up_ms(detector: Detector, pictures: Sequence[Picture], rounds: int) -> Row:
    """Return milliseconds from a prepared input to its boxes, in this process' memory."""
    member = detector.members[0]
    inputs = [member.prepare(picture) for picture in pictures]
    recall = Recall(RecentAnswers())
    detector.detect(pictures, [recall] * len(pictures))
    taken: list[float] = []
    for _ in range(rounds):
        for prepared in inputs:
            began = time.perf_counter()
            start = recall.ask(member, prepared)
            ended = time.perf_counter()
            assert isinstance(start(), KnownAnswer)
            taken.append(1e3 * (ended - began))
    return _told(taken)


def _told(milliseconds: list[float]) -> Row:
    return {
        "look_ups": len(milliseconds),
        "median_ms": round(statistics.median(milliseconds), 4),
        "p99_ms": round(percentile(milliseconds, 0.99), 4),
    }


class Noise:
    """Another piece of one large sheet of noise on Y each time: no picture comes again."""

    def __init__(self, levels: int, seed: int = 0) -> None:
        self._levels, self._rng = levels, np.random.default_rng(seed)

    def on(self, picture: Picture) -> Picture:
        """The picture with noise."""
        noise = self._rng.integers(-self._levels, self._levels + 1, picture.y.shape, np.int16)
        luma = np.clip(picture.y + noise, 0, 255).astype(np.uint8)
        return Picture(luma, picture.u, picture.v, picture.matrix, picture.full_range)


def noisy_cost(
    detector: Detector, pictures: Sequence[Picture], memory: AnswerMemory, most: int, blocks: int
) -> Row:
    """Pictures that never come again, until it switches itself off, and then `blocks` blocks.

    It is switched off after `most` blocks if it has not done so itself.

    share_of_pass  CPU of the detecting thread that look-ups and keeping took, by CPU of the pass
    share_waited   the same of time on the clock, with waits for a busy CPU
    cpu_ratio      CPU of this process (all threads) with it by without, median over blocks
    """
    noise, recall = Noise(3), TimedRecall(memory)
    told: dict[str, Row] = {}
    for state in ("on", "off"):
        cpu_s, seconds, hits = recall.cpu_s, recall.seconds, recall.counts.hits
        spans: list[tuple[float, float]] = []
        clock_s = 0.0
        while len(spans) < most and recall.worth.on if state == "on" else len(spans) < blocks:
            at = len(spans) * BLOCK
            shown = [noise.on(pictures[(at + i) % len(pictures)]) for i in range(BLOCK)]
            began = time.perf_counter()
            with_it = _cpu(detector, shown, recall)
            clock_s += time.perf_counter() - began
            spans.append((with_it, _cpu(detector, shown, None)))
        recall.worth = Worth(on=False)
        inputs = len(spans) * BLOCK
        without = sum(span[1] for span in spans)
        told[state] = {
            "inputs": inputs,
            "hits": recall.counts.hits - hits,
            "share_of_pass": round((recall.cpu_s - cpu_s) / without, 5),
            "share_waited": round((recall.seconds - seconds) / clock_s, 5),
            "cpu_ratio": round(median_of_ratios(*map(list, zip(*spans, strict=True))), 4),
            "cpu_us_an_input": round(1e6 * (recall.cpu_s - cpu_s) / inputs, 1),
        }
    return told


def _cpu(detector: Detector, pictures: Sequence[Picture], recall: Recall | None) -> float:
    began = time.process_time()
    detector.detect(pictures, [recall] * len(pictures))
    return time.process_time() - began
