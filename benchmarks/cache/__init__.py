"""Measure the cache of answers: its savings, its cost without repetitions, and its refusals.

    python -m benchmarks.cache --data FOLDER [--write]

A clip repeated several rounds without encoding anew, so that its packets are the same, with the
gate off and on; law 6 frame by frame. Look-up times. A source with noise, of which nothing comes
again, until it switches itself off and after that. Changed weights, precision, configuration;
injected collisions. The last line is the whole result as one JSON object.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from itertools import islice
from pathlib import Path
from typing import Any

import av
import cv2

from benchmarks.cache import checks, loop
from benchmarks.cache.cost import look_up_ms, noisy_cost
from benchmarks.harness.clips import find_clip
from benchmarks.harness.report import Bar, Benchmark, BenchmarkResult, Option, conditions
from framegate.models.detector import detector, policy
from framegate.models.detector.answer_cache import Recall, RecentAnswers
from framegate.models.detector.detector import Detector
from framegate.models.detector.network import nearest
from framegate.models.picture import Picture
from framegate.stages.detect.estimate import EstimateSettings, settings_for
from framegate.stages.detect.options import GateOptions, Mode
from tests.support.footage import repeat

Row = dict[str, Any]
MODES: tuple[Mode, ...] = ("off", "crops")


def light(given: EstimateSettings) -> Detector:
    """The light detector as detect has it, on one thread."""
    precision = nearest(policy.load("light").precision)
    return detector.load("light", precision, 1, min_score=given.calm.candidate)


def given(mode: Mode) -> EstimateSettings:
    """Everything that decides."""
    return settings_for(GateOptions(mode=mode), policy.load("light"))


def first_pictures(clip: Path, most: int) -> list[Picture]:
    """The first pictures of a clip, each in memory of its own."""
    return [picture for picture, _, _ in islice(loop.frames(clip), most)]


def first_frames(clip: Path, folder: Path, most: int) -> Path:
    """The clip's first frames, in their packets, as a file of their own."""
    path = folder / f"first{clip.suffix}"
    with av.open(str(clip)) as given, av.open(str(path), "w") as output:
        track = given.streams.video[0]
        stream = output.add_stream_from_template(track)
        for packet in islice((one for one in given.demux(track) if one.size), most):
            packet.stream = stream
            output.mux(packet)
    return path


def looped(clip: Path, folder: Path, rounds: int, using: Detector) -> list[Row]:
    """Measure rounds of the clip, with the gate off and on."""
    frames = sum(1 for _ in loop.frames(clip))
    path = repeat(clip, folder / f"looped{clip.suffix}", rounds)
    told = []
    for mode in MODES:
        recall = Recall(RecentAnswers())
        row: Row = {"gate": mode, "frames_a_round": frames}
        row["rounds"] = loop.rounds(path, frames, using, given(mode), recall)
        first, second = row["rounds"][0], row["rounds"][1]
        row["hit_rate"] = second["hit_rate"]
        name = "detector_cpu_ms_per_frame"
        row["detector_cpu_ratio"] = round(first[name] / second[name], 2)
        memory = Recall(checks.Dictionary())
        row["law_6"] = loop.with_and_without(path, using, given(mode), memory)
        print(json.dumps(row), flush=True)
        told.append(row)
    return told


def all_of(asked: argparse.Namespace, clip: Path, folder: Path) -> Row:
    """All figures."""
    using = light(given("crops"))
    pictures = first_pictures(clip, asked.pictures)
    using.warm_up(pictures[0].width, pictures[0].height)
    loops = looped(first_frames(clip, folder, asked.frames), folder, asked.rounds, using)
    times = look_up_ms(using, pictures, asked.look_ups)
    noisy = noisy_cost(using, pictures, RecentAnswers(), asked.on, asked.blocks)
    print(json.dumps({"look_up": times, "noisy": noisy}), flush=True)
    collided = checks.collisions(using, pictures)
    inputs = sum(noisy[state]["inputs"] for state in noisy)
    return {
        "hit_rate_second_round": loops[0]["hit_rate"],
        "detector_cpu_ratio": loops[0]["detector_cpu_ratio"],
        "gate_on_hit_rate_second_round": loops[1]["hit_rate"],
        "gate_on_detector_cpu_ratio": loops[1]["detector_cpu_ratio"],
        "look_up_ms": times["median_ms"],
        "noisy_hit_rate": sum(noisy[state]["hits"] for state in noisy) / inputs,
        "noisy_cost": noisy["off"]["share_of_pass"],
        "collisions_believed": collided["answers_that_differ"],
        "loops": loops,
        "look_up": times,
        "noisy": noisy,
        "hits_after_a_change": checks.changes_miss(pictures[:8], using.precision),
        "collisions": collided,
    }


def whole(given: argparse.Namespace) -> BenchmarkResult:
    """The whole result."""
    cv2.setNumThreads(1)
    clip = find_clip(given.data)
    packages = ("numpy", "opencv-python-headless", "openvino", "xxhash")
    about = conditions(packages, clip=clip.name, rounds=given.rounds, network_threads=1)
    print(json.dumps(about), flush=True)
    with tempfile.TemporaryDirectory(prefix="framegate-bench-") as folder:
        return {**all_of(given, clip, Path(folder)), "conditions": about}


def bars(result: BenchmarkResult) -> list[Bar]:
    """What looking up must save, may cost, and must refuse."""
    return [
        Bar("hits from the second round on", result["hit_rate_second_round"], ">=", 0.95),
        Bar("times less detector CPU then", result["detector_cpu_ratio"], ">=", 5.0),
        Bar("a look-up, ms", result["look_up_ms"], "<=", 0.3),
        Bar("its cost without hits", result["noisy_cost"], "<=", 0.01),
        Bar("collisions believed", result["collisions_believed"], "<=", 0),
    ]


BENCHMARK = Benchmark(
    name="cache",
    measure=whole,
    needs=("clips",),
    options={
        "rounds": Option(4, 2),
        "frames": Option(10**9, 24, "most of the clip that is looped"),
        "look_ups": Option(10, 1),
        "pictures": Option(64, 8, "of the clip that are looked up, and get noise"),
        "on": Option(10**9, 1, "most blocks of noisy pictures before it is switched off"),
        "blocks": Option(40, 1, "of noisy pictures after it is off"),
    },
    bars=bars,
    absent=("precision",),  # a processor without bf16 has no second precision of these weights
)
