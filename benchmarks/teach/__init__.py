"""Measure filters that verdicts teach, beside other limits that the same verdicts can set.

    python -m benchmarks.teach --data FOLDER [--clips NAME ...] [--write]

The rule is: a person or vehicle is in the picture for a second. The truth is visits that
vision-language models labelled (`benchmarks/alike/LABELS.md`). Verdicts come from the first 60 % of
a clip's time, the last 35 % judge, whose verdicts are never used. Each clip runs with the default
least score, and with LOW, because at the default there are fewer false episodes than a filter
needs.

default    the default least score, without a filter. The bars compare with it
draws      five draws of 10 + 10 and of 20 + 20 verdicts about the run with LOW: the filter, and
           each rival that the same verdicts set
f1         of the objects that are shown in the judged frames, against the visits, at IoU .3
lost       share of the true episodes that are muted
false_muted  share of the false episodes that are muted
miscounted share of the judged frames that show another number of objects than there are visits
mendable   share of the miscounted frames of composed footage that show more than there is: a
           mute can mend no others
cpu_ratio  CPU of a run with the filter by that without: the run's own CPU, and the difference of
           the rule with and without a filter over the same results, least of five turns
gain       95 % interval of the difference in F1 to the run with LOW, by a bootstrap over blocks of
           ten frames
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.alike import visit_labels
from benchmarks.harness.report import Bar, Benchmark, BenchmarkResult, Option, conditions
from benchmarks.promise.composed_hour import compose
from benchmarks.promise.composed_parts import read_parts
from benchmarks.promise.run import serve
from benchmarks.promise.scores import VISIBLE
from benchmarks.teach.footage import (
    RULE,
    FrameCounts,
    JudgedEpisode,
    Watched,
    changes_of,
    judged_episodes,
    scored_frames,
)
from benchmarks.teach.rivals import SIDES
from benchmarks.truth import runs
from benchmarks.truth.clips import at_recorded_speed, find_clips
from framegate.models import coco
from framegate.pipeline.contracts.object_filters import ObjectFilter
from framegate.pipeline.review.teach import LEAST, Verdicts, learn

CLIPS: Final = ("cctv-highway-overlay", "pets09-s2l1-view001-part1")
LOW: Final = 0.15
DRAWS: Final = 5
SIZES: Final = (10, 20)
TEACHES: Final = 0.60  # of the time of a clip, from its start
JUDGES: Final = 0.35  # of it, to its end
_SEED: Final = 0  # of the composed hour
_BLOCK: Final = 10
_RESAMPLES: Final = 400
_TURNS: Final = 5

Row = dict[str, Any]


def watch(data: Path, folder: Path, name: str, most: int, least: float | None) -> Watched:
    """Run over the first `most` frames of a clip, with a least score or the default, and return its
    results and truth.
    """
    [clip] = find_clips(data, [name])
    truth = visit_labels.read(visit_labels.FOLDER / f"{name}.json")
    n_frames = min(truth.frames, most)
    footage = at_recorded_speed(clip, folder, n_frames)
    changes = {"sources.clip": {"url": str(footage.path), "pace": "fast"}}
    if least is not None:
        changes["stages.detect"] = {"min_score": least}  # type: ignore[dict-item]
    run = runs.run(footage, changes)
    results = [run.results[seq] for seq in sorted(run.results) if seq < n_frames]
    return Watched(results, truth, run.cpu_ms)


def draw_verdicts(
    episodes: Sequence[JudgedEpisode], size: int, seed: int
) -> tuple[list[JudgedEpisode], list[JudgedEpisode]] | None:
    """Draw `size` true and `size` false episodes; None if there are not so many."""
    chance = np.random.default_rng(seed)
    drawn = []
    for wanted in (True, False):
        kind = [each for each in episodes if each.is_true is wanted]
        if len(kind) < size:
            return None
        places = sorted(chance.choice(len(kind), size, replace=False).tolist())
        drawn.append([kind[place] for place in places])
    return drawn[0], drawn[1]


def figures_of(default: Watched, low: Watched) -> Row:
    """Return the figures of a clip, with all draws of verdicts."""
    n_frames = len(low.results)
    since = round((1 - JUDGES) * n_frames)
    episodes = judged_episodes(low)
    taught = [each for each in episodes if each.began < TEACHES * n_frames]
    judged = [each for each in episodes if each.began >= since]
    frames = scored_frames(low, since)
    by_default = [each.without(frozenset()) for each in scored_frames(default, since)]
    before = [each.without(frozenset()) for each in frames]
    rows: list[Row] = []
    for size in SIZES:
        for seed in range(DRAWS):
            verdicts = draw_verdicts(taught, size, seed)
            if verdicts is None:
                continue
            for side, rival in SIDES.items():
                mutes = rival(*verdicts)
                muted = [each for each in judged if mutes(each)]
                tracks = frozenset[int]().union(*(each.tracks for each in muted))
                ours = [each.without(tracks) for each in frames]
                row = {"verdicts": size, "draw": seed, "side": side}
                rows.append({**row, **_shares(judged, muted), **_scores(ours, before)})
    defaults = judged_episodes(default)
    return {
        "episodes": {
            "default": _kinds([each for each in defaults if each.began < TEACHES * n_frames]),
            "teaching": _kinds(taught),
            "judging": _kinds(judged),
        },
        "default": _scores(by_default, before),
        "low": _scores(before, before),
        "draws": rows,
        "cpu_ratio": cpu_ratio(low, taught),
    }


def _kinds(episodes: Sequence[JudgedEpisode]) -> list[int]:
    """Return the numbers of true and of false episodes."""
    n_true = sum(each.is_true for each in episodes)
    return [n_true, len(episodes) - n_true]


def _shares(judged: Sequence[JudgedEpisode], muted: Sequence[JudgedEpisode]) -> Row:
    n_true, n_false = _kinds(judged)
    true_muted, false_muted = _kinds(muted)
    return {
        "lost": round(true_muted / max(n_true, 1), 4),
        "false_muted": round(false_muted / max(n_false, 1), 4),
    }


def _scores(ours: Sequence[FrameCounts], before: Sequence[FrameCounts]) -> Row:
    n_wrong = sum(frame.is_miscounted for frame in ours)
    return {
        "f1": round(_f1(ours), 4),
        "gain": [round(each, 4) for each in _gain(ours, before)],
        "miscounted": round(n_wrong / max(len(ours), 1), 4),
    }


def _f1(frames: Sequence[FrameCounts]) -> float:
    right = sum(frame.right for frame in frames)
    both = sum(frame.shown + frame.there for frame in frames)
    return 2 * right / max(both, 1)


def _gain(ours: Sequence[FrameCounts], before: Sequence[FrameCounts]) -> list[float]:
    """Return the 95 % interval of the difference of F1, of the same blocks on both sides."""
    chance = np.random.default_rng(0)
    tables = [np.array([frame[:3] for frame in side], np.float64) for side in (ours, before)]
    starts = np.arange(0, len(ours), _BLOCK)
    sums = [np.add.reduceat(table, starts, axis=0) for table in tables]
    differences = []
    for _ in range(_RESAMPLES):
        blocks = chance.integers(0, len(starts), len(starts))
        mine, theirs = (each[blocks].sum(axis=0) for each in sums)
        differences.append(_f1_of(mine) - _f1_of(theirs))
    low, high = np.quantile(differences, (0.025, 0.975)).tolist()
    return [low, high]


def _f1_of(sums: np.ndarray[Any, Any]) -> float:
    right, shown, there = sums.tolist()
    return float(2 * right / max(shown + there, 1.0))


def cpu_ratio(watched: Watched, taught: Sequence[JudgedEpisode]) -> float | None:
    """Return the CPU of a run with a learned filter by that of a run without."""
    verdicts = draw_verdicts(taught, LEAST, 0)
    if verdicts is None:
        return None
    true, false = verdicts
    learned = learn(Verdicts([each.traits for each in true], [each.traits for each in false]))
    source = watched.results[0].source
    with_filter = {"muted_1": ObjectFilter((source,), rule=RULE, weights=learned.weights)}
    spent: dict[str, list[float]] = {"on": [], "off": []}
    for _ in range(_TURNS):
        for side, filters in (("on", with_filter), ("off", {})):
            began = time.process_time()
            changes_of(watched, filters)
            spent[side].append(time.process_time() - began)
    more_ms = 1e3 * (min(spent["on"]) - min(spent["off"])) / len(watched.results)
    return round(1 + max(more_ms, 0.0) / watched.cpu_ms, 4)


def composed_counts(data: Path, folder: Path, frames: int) -> Row:
    """Return the miscounted frames of a composed hour, and which of them a mute can mend."""
    path = folder / "hour.mp4"
    composed = compose(read_parts(data), path, frames, _SEED)
    served, _ = serve(path, frames, None)
    classes = {seen.class_id for frame in composed for seen in frame}
    more = fewer = 0
    for boxes, frame in zip(served.shown, composed, strict=True):
        there = sum(seen.share >= VISIBLE for seen in frame)
        shown = sum(each in classes for each in boxes.class_ids.tolist())
        more += shown > there
        fewer += shown < there
    return {
        "frames": frames,
        "classes": [coco.LABELS[each] for each in sorted(classes)],
        "shows_more": round(more / frames, 4),
        "shows_fewer": round(fewer / frames, 4),
        "mendable": round(more / max(more + fewer, 1), 4),
    }


def whole(given: argparse.Namespace) -> BenchmarkResult:
    """The whole result."""
    clips = {}
    with tempfile.TemporaryDirectory(prefix="framegate-bench-") as name:
        folder = Path(name)
        for clip in given.clips:
            default, low = (
                watch(given.data, folder, clip, given.most, least) for least in (None, LOW)
            )
            clips[clip] = figures_of(default, low)
            print(f"{clip}: {clips[clip]['episodes']}", flush=True)
        composed = composed_counts(given.data, folder, given.frames)
    return {
        "clips": clips,
        "worst": {
            clip: {str(size): worst(row["draws"], size, "learned") for size in SIZES}
            for clip, row in clips.items()
        },
        "composed": composed,
        "conditions": conditions(("numpy", "openvino"), clips=list(given.clips)),
    }


def worst(rows: Sequence[Row], size: int, side: str) -> Row | None:
    """Return the draw with the least F1 of a side; None: there are too few episodes."""
    own = [row for row in rows if (row["verdicts"], row["side"]) == (size, side)]
    return min(own, key=lambda row: (row["f1"], -row["lost"]), default=None)


def bars(result: BenchmarkResult) -> list[Bar]:
    """What is wanted of the worst draw of 20 + 20 verdicts, of each clip that has so many."""
    found = []
    for clip, row in result["clips"].items():
        mine = result["worst"][clip]["20"]
        if mine is None:
            continue
        rows = [each for each in row["draws"] if each["verdicts"] == SIZES[-1]]
        rivals = [
            least["f1"]
            for side in SIDES
            if side != "learned" and (least := worst(rows, SIZES[-1], side)) is not None
        ]
        lost = max(each["lost"] for each in rows if each["side"] == "learned")
        found += [
            Bar(f"F1 above the default's, {clip}", mine["f1"] - row["default"]["f1"], ">=", 0.03),
            Bar(f"F1 above the best rival's, {clip}", mine["f1"] - max(rivals), ">=", 0.0),
            Bar(f"true episodes lost, {clip}", lost, "<=", 0.02),
            Bar(f"CPU by the default's, {clip}", row["cpu_ratio"], "<=", 1.05),
        ]
    # Halving them takes a filter that can mend half of them.
    found.append(
        Bar("composed miscounts a mute can mend", result["composed"]["mendable"], ">=", 0.5)
    )
    return found


BENCHMARK = Benchmark(
    name="teach",
    measure=whole,
    needs=("clips",),
    options={
        "clips": Option(CLIPS, ("cctv-highway-overlay",), "names of some"),
        "most": Option(10**6, 100, "frames of each clip"),
        "frames": Option(1500, 150, "of composed footage, five a second"),
    },
    bars=bars,
    keyed=("clips", "worst"),
)
