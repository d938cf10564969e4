"""The near side of `benchmarks.link`: a clip's frames are asked about, at their own pace.

    python -m benchmarks.link.near PLACE URL --clip FILE --policy HASH --seconds S ...

Prints `ready`, then a JSON object for each question that ended and for each change of the breaker,
with times by the monotonic clock, which all processes of a host share.
"""

from __future__ import annotations

import argparse
import itertools
import json
import select
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness.gate_clips import GateClip
from framegate.pipeline.contracts.queries import Predictions, Query, QueryId
from framegate.pipeline.contracts.records import Position
from framegate.pipeline.contracts.source import Form
from framegate.pipeline.heavy.asks import Asks
from framegate.pipeline.heavy.kserve import KServe
from framegate.pipeline.heavy.queue import HeavyQueue
from framegate.stages.escalate.heavy_pass import encode_question

_AFTER_S = 12.0  # for answers that are late


def main() -> None:
    """Ask for so many seconds; then wait a while for what is late."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("place", choices=("workers", "kserve"))
    parser.add_argument("url")
    parser.add_argument("--clip", type=Path, required=True)
    parser.add_argument("--policy", required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--per-second", type=float, required=True)
    parser.add_argument("--deadline", type=float, required=True)
    given = parser.parse_args()
    kind = HeavyQueue if given.place == "workers" else KServe
    asks = Asks(kind(given.url, encode_question, given.policy))
    frames = _frames(given.clip)
    form, _ = next(frames)
    tell(about=form.nbytes)
    print("ready", flush=True)
    try:
        _ask(asks, frames, given)
    finally:
        asks.close()


def _ask(asks: Asks, frames: Iterator[tuple[Form, bytes]], given: argparse.Namespace) -> None:
    begun = time.monotonic()
    waiting: dict[QueryId, tuple[float, bool]] = {}  # when it was asked, and whether it is late
    breaker = ""
    for number in itertools.count():
        next_s = begun + number / given.per_second
        is_over = number >= given.seconds * given.per_second
        until = begun + given.seconds + _AFTER_S if is_over else next_s
        while (left_s := until - time.monotonic()) > 0 and (waiting or not is_over):
            select.select([asks], [], [], min(left_s, asks.due_in() or left_s, 0.5))
            asks.hear()
            _take(asks, waiting)
            if asks.counts.breaker != breaker:
                breaker = asks.counts.breaker
                tell(breaker=breaker, at=time.monotonic())
        if is_over:
            break
        form, pixels = next(frames)
        now, question = time.monotonic(), QueryId("clip", Position(1, number))
        asks.ask(Query(question, form, pixels, now + given.deadline))
        waiting[question] = now, False
    counts = asks.counts
    tell(sent_bytes=counts.sent_bytes, wire_s=counts.wire_s, answered=counts.answered)
    tell(never=len([1 for _, is_late in waiting.values() if not is_late]))


def _take(asks: Asks, waiting: dict[QueryId, tuple[float, bool]]) -> None:
    """Tell what came, once in time or not, and once more if it came late."""
    for question, (asked, is_late) in list(waiting.items()):
        answer = asks.answer(question)
        if answer is None or (is_late and not isinstance(answer, Predictions)):
            continue
        outcome = "answered" if isinstance(answer, Predictions) else answer.reason
        what = "late_answer" if is_late else "outcome"
        after_s = time.monotonic() - asked
        tell(number=question.position.seq, asked=asked, after_s=after_s, **{what: outcome})
        if outcome == "late":
            waiting[question] = asked, True
        else:
            asks.forget(question)
            del waiting[question]


def _frames(clip: Path) -> Iterator[tuple[Form, bytes]]:
    """The clip's frames, over and over."""
    while True:
        for shot in GateClip(clip.stem, "quiet", clip, 10**9, 0.0).shots():
            picture = shot.picture
            form = Form(picture.width, picture.height, picture.matrix, picture.full_range)
            planes = (picture.y, picture.u, picture.v)
            yield form, b"".join(np.ascontiguousarray(plane).tobytes() for plane in planes)


def tell(**facts: Any) -> None:
    """A line for the benchmark."""
    print(json.dumps(facts), flush=True)


if __name__ == "__main__":
    main()
