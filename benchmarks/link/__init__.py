"""The heavy pass behind a narrow link: response times, bytes, and what a cut costs.

    python -m benchmarks.link [--data FOLDER] [--seconds S] [--places A,B] [--write]

Two network namespaces where the host allows it, a round trip of 20 ms, 50 Mbit/s; then 1 % of
packets lost as well; then cut for 10 s; then healed. Questions with a deadline come at their own
pace from a clip's frames; each must end once, answered or degraded. Then (`pipeline`) a camera goes
through `framegate run` on the near side, with a promise: its frames' response, and its accounts.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2

from benchmarks.harness.clips import find_clip
from benchmarks.harness.report import (
    Bar,
    Benchmark,
    BenchmarkResult,
    Option,
    conditions,
    percentile,
)
from benchmarks.link.pipeline import run_behind
from benchmarks.picture_coding import Coded, as_jpeg, coded_row, noisy, of_clip
from framegate.models.detector import detector
from framegate.models.picture import Picture
from framegate.models.picture_coding import DEFAULT
from framegate.pipeline.store.embedded import EmbeddedStore
from tests.support.kserve.servers import mlserver
from tests.support.links import Link, link
from tests.support.runs import environment
from tests.support.shaping import Shape

GOOD = Shape(delay_s=0.010, rate=50e6 / 8)
PHASES = (
    ("whole", GOOD),
    ("loss", replace(GOOD, loss=0.01)),
    ("cut", replace(GOOD, is_cut=True)),
    ("healed", GOOD),
)
PLACES = ("workers", "kserve_grpc", "kserve_http")
FEWER, MOST_LOST = 10.0, 0.5  # times fewer bytes than raw, at so many points of agreement
CODES: dict[str, Callable[[Picture], Coded]] = {
    "jpeg": partial(as_jpeg, coding=DEFAULT),
    "one grey level of noise": noisy,
}
_READY_S = 120.0


Measure = Callable[[Link, str, str, Path, "Work"], dict[str, Any]]


@dataclass(frozen=True)
class Work:
    """What is asked: per_second with a deadline_s, for seconds in each phase but the cut."""

    clip: Path
    policy: str
    seconds: float = 20.0
    cut_s: float = 10.0
    per_second: float = 2.0
    deadline_s: float = 1.0
    told: bool = False

    @property
    def phases(self) -> list[tuple[str, Shape, float]]:
        """Name, shape and seconds of each."""
        return [
            (name, shape, self.cut_s if shape.is_cut else self.seconds) for name, shape in PHASES
        ]


def whole(given: argparse.Namespace) -> BenchmarkResult:
    """The whole result."""
    clip = find_clip(given.data, "one-by-one-person-detection.mp4" if given.data else None)
    policy = detector.policy_id("heavy")
    work = Work(clip, policy, given.seconds, given.cut, given.per_second, given.deadline)
    rows: dict[str, dict[str, Any]] = {}
    kind = ""
    for place in given.places.split(","):
        rows[place] = {}
        for part in given.parts.split(","):
            kind, rows[place][part] = run(place, work, MEASURES[part])
            for phase, row in rows[place][part].items():
                print(place, part, phase, row, flush=True)
    return {
        "coding": _coding(clip, given.frames),
        "places": rows,
        "conditions": conditions(
            ("openvino", "av", "redis"),
            link=kind,
            clip=clip.name,
            asks_per_second=given.per_second,
            deadline_s=given.deadline,
        ),
    }


def _coding(clip: Path, frames: int) -> dict[str, Any]:
    """What a question's JPEG costs in agreement with the heavy pass on raw pixels, for its bytes.

    Beside it a grey level of noise: how far boxes near the threshold come and go by themselves.
    """
    cv2.setNumThreads(1)
    heavy = detector.load("heavy", threads=2)
    pictures = {clip.stem: of_clip(clip, frames)}
    raw = {name: heavy.detect(some) for name, some in pictures.items()}
    rows = {n: coded_row(code, pictures, raw, heavy)[clip.stem] for n, code in CODES.items()}
    row = rows["jpeg"]
    lost = round(100 * (1 - row["f1"]), 2)
    holds = bool(lost <= MOST_LOST and row["times_fewer_bytes"] >= FEWER)
    print("coding", rows, flush=True)
    return {**rows, "frames": frames, "points_lost": lost, "holds": holds}


def run(place: str, work: Work, measure: Measure) -> tuple[str, dict[str, Any]]:
    """What the link was, and what came of each phase at one place.

    measure  given link, place, URL on the near side, folder and work
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="framegate-link-")))
        between = stack.enter_context(link())
        if place == "workers":
            url = stack.enter_context(_workers(between, folder, work))
        else:
            url = stack.enter_context(_server(between, folder, work, place.partition("_")[2]))
        measured = measure(between, place.partition("_")[0], url, folder, work)
        return between.kind, measured


def pipeline(between: Link, place: str, url: str, folder: Path, work: Work) -> dict[str, Any]:
    """A camera through the whole pipeline."""
    cameras = folder / "cameras"
    cameras.mkdir()
    return run_behind(between, place, url, work.clip, cameras, work.phases)


@contextmanager
def _workers(between: Link, folder: Path, work: Work) -> Iterator[str]:
    """A store on the near side, a worker on the far one; the store's URL on the near side."""
    store = EmbeddedStore(folder / "store", "everysec")
    store.start()
    at = between.expose("near", str(store.socket))
    words = ["-m", "framegate.cli", "worker", "--heavy", "--redis", f"redis://{at}"]
    if work.told:
        words = ["-m", "tests.support.heavy_process", f"redis://{at}"]
    worker = subprocess.Popen([*between.far, sys.executable, *words], env=environment())
    try:
        yield store.url
    finally:
        worker.kill()
        worker.wait()
        store.stop()


@contextmanager
def _server(between: Link, folder: Path, work: Work, scheme: str) -> Iterator[str]:
    """MLServer on the far side; its URL on the near one."""
    with mlserver(folder / "mlserver", told=work.told, before=between.far) as served:
        there = served.http if scheme == "http" else served.grpc
        yield f"{scheme}://{between.expose('far', there.partition('://')[2])}"


def questions(between: Link, place: str, url: str, _: Path, work: Work) -> dict[str, Any]:
    """Ask once until the place is there, then through all phases."""
    until = time.monotonic() + _READY_S
    while not any(one.get("outcome") == "answered" for one in _asked(between, place, url, work, 1)):
        if time.monotonic() > until:
            raise RuntimeError(f"{place} at {url} does not answer")
    begins: list[float] = []

    def shape() -> None:
        for _, wanted, seconds in work.phases:
            begins.append(time.monotonic())
            between.take(wanted)
            time.sleep(seconds)

    total = sum(seconds for _, _, seconds in work.phases)
    told = _asked(between, place, url, work, total, shape)
    between.take(Shape())
    return _summed(told, begins, work)


def _asked(
    between: Link,
    place: str,
    url: str,
    work: Work,
    seconds: float,
    meanwhile: Callable[[], None] = lambda: None,
) -> list[dict[str, Any]]:
    """What the near side tells of so many seconds; `meanwhile` runs from its begin on."""
    command = [*between.near, sys.executable, "-m", "benchmarks.link.near", place, url]
    for name, value in (
        ("clip", work.clip),
        ("policy", work.policy),
        ("seconds", seconds),
        ("per-second", work.per_second),
        ("deadline", work.deadline_s),
    ):
        command += [f"--{name}", str(value)]
    near = subprocess.Popen(
        command, env=environment(), stdout=subprocess.PIPE, text=True, encoding="utf-8"
    )
    assert near.stdout is not None
    lines: list[dict[str, Any]] = []
    shaper = threading.Thread(target=meanwhile)
    for line in near.stdout:
        if line.strip() == "ready":
            shaper.start()
        else:
            lines.append(json.loads(line))
    if near.wait() or not shaper.ident:
        raise RuntimeError(f"the near side ended with {near.returncode}")
    shaper.join()
    return lines


def _summed(told: Sequence[dict[str, Any]], begins: list[float], work: Work) -> dict[str, Any]:
    """A row for each phase, by when a question was asked, and one for all."""
    ends = [*begins[1:], float("inf")]
    rows: dict[str, Any] = {}
    for (name, _, _), begin, end in zip(work.phases, begins, ends, strict=True):
        mine = [one for one in told if begin <= one.get("asked", -1.0) < end]
        rows[name] = _phase(mine)
        breakers = [one["breaker"] for one in told if begin <= one.get("at", -1.0) < end]
        rows[name]["breaker"] = breakers
    everything: dict[str, Any] = {}
    for one in told:
        everything |= {
            key: one[key] for key in ("about", "sent_bytes", "wire_s", "never") if key in one
        }
    looked = [one for one in told if "answered" in one][-1]["answered"]
    outcomes = Counter(one["number"] for one in told if "outcome" in one)
    rows["all"] = {
        "asked": len(outcomes),
        "ended_once": all(n == 1 for n in outcomes.values()) and not everything["never"],
        "looked_at": looked,
        "bytes_a_question": round(everything["sent_bytes"] / max(1, looked)),
        "times_fewer_than_raw": round(everything["about"] * looked / everything["sent_bytes"], 1),
        "wire_ms": round(1000 * everything["wire_s"] / max(1, looked), 1),
    }
    return rows


def _phase(mine: Sequence[dict[str, Any]]) -> dict[str, Any]:
    ended = [one for one in mine if "outcome" in one]
    responses = [1000 * one["after_s"] for one in ended if one["outcome"] == "answered"]
    late = [1000 * one["after_s"] for one in mine if one.get("late_answer") == "answered"]
    return {
        "outcomes": dict(Counter(one["outcome"] for one in ended)),
        "response_ms": round(statistics.median(responses), 1) if responses else None,
        "response_p99_ms": round(percentile(responses, 0.99), 1) if responses else None,
        "late_answers": len(late),
        "late_response_ms": round(statistics.median(late), 1) if late else None,
    }


MEASURES = {"questions": questions, "pipeline": pipeline}


def bars(result: BenchmarkResult) -> list[Bar]:
    """What a question may weigh and cost, how soon frames are answered over a whole line, and that
    nothing is lost.
    """
    coding = result["coding"]
    told = [
        Bar("JPEG: times fewer bytes", coding["jpeg"]["times_fewer_bytes"], ">=", FEWER),
        Bar("JPEG: points of agreement lost", coding["points_lost"], "<=", MOST_LOST),
    ]
    for place, parts in result["places"].items():
        if "pipeline" in parts:
            row, accounts = parts["pipeline"]["whole"], parts["pipeline"]["all"]
            are_valid = float(accounts["certificates_hold"]) if accounts["certificates"] else None
            told += [
                Bar(f"{place}: response, mean ms", row["response_mean_ms"], "<=", 50.0),
                Bar(f"{place}: frames lost", abs(accounts["lost"]), "<=", 0),
                Bar(f"{place}: results published twice", accounts["published_twice"], "<=", 0),
                Bar(f"{place}: all certificates are valid", are_valid, ">=", 1),
            ]
        if "questions" in parts:
            has_ended_once = float(parts["questions"]["all"]["ended_once"])
            told.append(Bar(f"{place}: each question ended once", has_ended_once, ">=", 1))
    return told


BENCHMARK = Benchmark(
    name="link",
    measure=whole,
    options={
        "seconds": Option(20.0, 3.0, "of each phase but the cut"),
        "cut": Option(10.0, 2.0, "seconds that it is cut"),
        "per_second": Option(2.0),
        "deadline": Option(1.0),
        "places": Option(",".join(PLACES), PLACES[0]),
        "parts": Option("questions,pipeline"),
        "frames": Option(100, 2, "of the clip, to compare codings"),
    },
    bars=bars,
    keyed=("places", "outcomes", "degraded", "dropped"),
    absent=("breaker", "certificates"),  # without a cut that is long enough
)
