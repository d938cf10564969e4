"""Our tracks beside those of ByteTrack and OC-SORT of `trackers`, from the same detections.

    python -m benchmarks.trackers --data FOLDER [--clips NAME ...] [--cache FOLDER] [--write]

The shipped detector looks at every frame of a labelled clip, whole, up to its last label. Each
tracker gets these boxes frame by frame, from the lowest score that ours uses.

settings     shipped: those of a run; no windows: the same without the stage `windows`; defaults:
             those of the package; chosen: one set for all clips, setting by setting that with the
             highest mean F1 on the clips that choose, of equal ones that with the fewest jumps. No
             clip that chooses has labelled tracks
f1           objects that have a number, against labels, IoU .5
hota, idf1, id_switches  as in trackeval, where tracks are labelled
jumps        how often a number is further away than its object could have moved

`framegate` is what a run publishes with `[gate] mode = "off"`, by the functions of its stages. The
other trackers know no classes, so a number may change its class.
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.harness import tracking
from benchmarks.harness.clips import rate
from benchmarks.harness.report import Bar, Benchmark, BenchmarkResult, Option, conditions
from benchmarks.truth import scores
from benchmarks.truth.clips import ROLES, LabelledClip, NotLabelled, find_clips
from framegate.models import coco
from framegate.models.boxes import Boxes, IntArray
from framegate.models.detector import detector, policy
from framegate.models.picture import as_picture
from framegate.models.tracking import score_thresholds
from framegate.models.tracking.track_state import no_tracks
from framegate.pipeline.contracts.moments import StoredMoment
from framegate.pipeline.contracts.results import Object
from framegate.pipeline.contracts.source import Request
from framegate.stages.decode.file import FileSource
from framegate.stages.detect.beside_published import candidates, least_scores
from framegate.stages.detect.estimate import conclude, settings_for
from framegate.stages.detect.look_plan import whole_plan
from framegate.stages.detect.memory import CurrentFrame, SourceMemory
from framegate.stages.detect.options import GateOptions
from framegate.stages.detect.output import detections_of
from framegate.stages.windows.stage import ObjectWindows, step

Settings = Mapping[str, float]
Row = dict[str, Any]
Shown = list[tuple[Boxes, IntArray]]
"""Of each frame: the objects that have a number, and int32 (N,), their numbers."""

OURS: Final = "framegate"
SHIPPED: Final = "shipped"
PETS: Final = "pets09-s2l1-view001-part1"
NIGHT: Final = "mot16-04-night-1080p"
_DETECTOR: Final = "light"
_NO_SIZE: Final = (1, 1)  # only looks at parts of a picture need its size
# Settings of the other trackers that are tried. No box has a score below the first. By default
# ByteTrack starts a track 0.1 above the lowest score of its first round; ours starts it at that
# score.
_FIRST: Final = "high_conf_det_threshold"
_START: Final = "track_activation_threshold"
_MARGIN: Final = 0.1
_HIGH: Final = (0.19, 0.22, 0.25, 0.3, 0.4, 0.5, 0.6)
_STARTS: Final = (0.0, 0.05, 0.1, 0.2, 0.3)  # above the score of the first round
_THEN: Final[dict[str, tuple[float, ...]]] = {
    "minimum_consecutive_frames": (1, 2, 3, 5),
    "minimum_iou_threshold": (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
    "lost_track_buffer": (0, 1, 2, 3, 5, 10, 30, 60),
}


@dataclass(frozen=True, slots=True, eq=False)
class RecordedLooks:
    """The boxes of a look at each frame of a clip, class ids of COCO."""

    clip: LabelledClip
    fps: float
    boxes: tuple[Boxes, ...]

    @property
    def pts(self) -> Iterator[float]:
        """Yield the time of each frame, seconds."""
        return (number / self.fps for number in range(len(self.boxes)))


# -- The same detections for all.


def record(clip: LabelledClip, most: int, cache: Path | None) -> RecordedLooks:
    """Return the looks at a clip.

    most   frames; 0: up to the last label
    cache  folder that keeps looks for the next call; None: none
    """
    fps = clip.fps or rate(clip.path)
    classes = [*coco.CAMERA, *(group for group in clip.groups if group in coco.LABELS)]
    classes = list(dict.fromkeys(classes))
    frames = most or clip.frames[-1].number + 1
    path = None
    if cache is not None:
        cache.mkdir(parents=True, exist_ok=True)
        digest = detector.policy_id(_DETECTOR, classes)[:16]
        path = cache / f"{clip.name}-{frames}-{digest}.npz"
        if path.is_file():
            return RecordedLooks(clip, fps, _read(path))
    boxes = _looks(clip, classes, frames)
    if path is not None:
        _write(path, boxes)
    return RecordedLooks(clip, fps, boxes)


def _looks(clip: LabelledClip, classes: Sequence[str], frames: int) -> tuple[Boxes, ...]:
    """Look at the first frames of a clip, whole."""
    smoothing, _ = score_thresholds.settings_for(policy.load(_DETECTOR).min_score)
    model = detector.load(_DETECTOR, classes=classes, min_score=smoothing.candidate)
    boxes = []
    source = FileSource(Request(str(clip.path)))
    buffer = memoryview(b"")
    try:
        for frame in islice(source.frames(), frames):
            if len(buffer) != frame.nbytes:
                buffer = memoryview(bytearray(frame.nbytes))
            frame.write(buffer)
            boxes += model.detect([as_picture(buffer, frame.form)])
    finally:
        source.close()
        model.close()
    return tuple(boxes)


def _write(path: Path, boxes: Sequence[Boxes]) -> None:
    np.savez_compressed(
        path,
        sizes=[len(each) for each in boxes],
        xyxy=np.concatenate([each.xyxy for each in boxes]),
        scores=np.concatenate([each.scores for each in boxes]),
        class_ids=np.concatenate([each.class_ids for each in boxes]),
    )


def _read(path: Path) -> tuple[Boxes, ...]:
    with np.load(path) as kept:
        ends = np.cumsum(kept["sizes"])[:-1]
        columns = [np.split(kept[name], ends) for name in ("xyxy", "scores", "class_ids")]
    return tuple(Boxes(*row) for row in zip(*columns, strict=True))


# -- The trackers.


def ours(looks: RecordedLooks, with_windows: bool = True) -> Shown:
    """Return what a run without a gate publishes from these looks, without numberless objects."""
    settings = settings_for(GateOptions(mode="off"), policy.load(_DETECTOR))
    memory, tracks = SourceMemory(), no_tracks()
    windows: ObjectWindows = {}
    before: StoredMoment | None = None
    frames: Shown = []
    for number, (pts, boxes) in enumerate(zip(looks.pts, looks.boxes, strict=True)):
        frame = CurrentFrame(memory, tracks, _NO_SIZE, pts)
        plan = whole_plan(frame, settings.plan)
        estimate = conclude(frame, plan, [boxes], settings)
        memory, tracks = estimate.memory, estimate.tracks
        hidden = candidates(estimate, settings.calm, coco.LABELS)
        detections = msgspec.structs.replace(
            detections_of(plan, estimate, ()),
            candidates=hidden,
            least=least_scores(hidden, settings.calm),
        )
        now = StoredMoment(1, number, pts, pts)
        stepped = step(windows, detections, before, now, decides=with_windows)
        windows, before = stepped.windows, now
        frames.append(_with_number(stepped.objects))
    return frames


def _with_number(objects: Sequence[Object]) -> tuple[Boxes, IntArray]:
    numbered = [each for each in objects if each.track is not None]
    boxes = Boxes(
        np.array([each.box for each in numbered], np.float32).reshape(-1, 4),
        np.array([each.score for each in numbered], np.float32),
        np.array([each.class_id for each in numbered], np.int32),
    )
    return boxes, np.array([each.track for each in numbered], np.int32)


def rival(name: str, settings: Settings, looks: RecordedLooks) -> Shown:
    """Return the objects to which a tracker of `trackers` gives a number.

    name      bytetrack or ocsort
    settings  arguments that differ from the defaults
    """
    import supervision
    import trackers

    kinds = {"bytetrack": trackers.ByteTrackTracker, "ocsort": trackers.OCSORTTracker}
    counts = {"minimum_consecutive_frames", "lost_track_buffer"}
    words = {key: int(value) if key in counts else value for key, value in settings.items()}
    tracker = kinds[name](frame_rate=looks.fps, **words)
    frames: Shown = []
    for boxes in looks.boxes:
        given = supervision.Detections(
            xyxy=boxes.xyxy.astype(np.float64),
            confidence=boxes.scores.astype(np.float64),
            class_id=boxes.class_ids.astype(int),
        )
        answer = tracker.update(given)
        numbers = np.asarray(answer.tracker_id, np.int32) + 1  # from 0; -1: no number
        shown = Boxes(
            answer.xyxy.astype(np.float32).reshape(-1, 4),
            np.asarray(answer.confidence, np.float32).reshape(-1),
            np.asarray(answer.class_id, np.int32).reshape(-1),
        )
        has_number = numbers > 0
        frames.append((shown.take(has_number), numbers[has_number]))
    return frames


def choose(name: str, all_looks: Sequence[RecordedLooks]) -> Settings:
    """Return the settings with the highest mean F1 on these clips, then with the fewest jumps.

    One setting is chosen after the other; those that have no turn so far have their defaults.
    """

    @functools.cache
    def worth(items: tuple[tuple[str, float], ...]) -> tuple[float, int]:
        rows = [figures(looks, rival(name, dict(items), looks)) for looks in all_looks]
        return float(np.mean([row["f1"] or 0.0 for row in rows])), -sum(r["jumps"] for r in rows)

    def best(tried: Sequence[Settings]) -> Settings:
        return max(tried, key=lambda settings: worth(tuple(sorted(settings.items()))))

    chosen = best([_first_round(name, high) for high in _HIGH])
    if name == "bytetrack":
        starts = [round(chosen[_FIRST] + above, 2) for above in _STARTS]
        chosen = best([{**chosen, _START: start} for start in starts])
    for setting, values in _THEN.items():
        chosen = best([{**chosen, setting: value} for value in values])
    return chosen


def _first_round(name: str, high: float) -> Settings:
    if name == "bytetrack":
        return {_FIRST: high, _START: round(high + _MARGIN, 2)}
    return {_FIRST: high}


# -- The figures.


def figures(looks: RecordedLooks, shown: Shown) -> Row:
    """Return the figures of a tracker on a clip."""
    frames = []
    for pts, (boxes, ids) in zip(looks.pts, shown, strict=True):
        corners = zip(*boxes.xyxy.T.tolist(), strict=True)
        columns = zip(boxes.class_ids, corners, boxes.scores, ids, strict=True)
        rows = [(coco.LABELS[kind], edges, score, int(n)) for kind, edges, score, n in columns]
        frames.append(looks.clip.objects(rows, pts))
    labelled = [frame for frame in looks.clip.frames if frame.number < len(frames)]
    judged = [scores.judge(frames[frame.number], frame) for frame in labelled]
    rates = scores.rates(scores.counts_of(judged))
    row: Row = {**rates, "hota": None, "idf1": None, "id_switches": None}
    if looks.clip.has_tracks:
        found = tracking.score([each.objects for each in judged], [each.truth for each in judged])
        row |= {"hota": found.hota, "idf1": found.idf1, "id_switches": found.switches}
    return scores.rounded({**row, "jumps": tracking.jumps(frames)})


def whole(given: argparse.Namespace) -> BenchmarkResult:
    """Return the whole result."""
    if find_spec("trackers") is None:
        sys.exit("trackers: needs the extra `test`, of which trackers is not installed")
    try:
        clips = find_clips(given.data, given.clips)
    except NotLabelled as fault:
        sys.exit(f"trackers: {fault}")
    if all(clip.role != "chooses" for clip in clips):
        names = ", ".join(name for name, role in ROLES.items() if role == "chooses")
        sys.exit(f"trackers: --clips must have one of the clips that choose: {names}")
    cache = None
    if given.cache:
        cache = Path(given.cache)
    all_looks = []
    for clip in clips:
        all_looks.append(record(clip, given.frames, cache))
        print(f"recorded: {clip.name}, {len(all_looks[-1].boxes)} frames", flush=True)
    choosing = [looks for looks in all_looks if looks.clip.role == "chooses"]
    sides: list[tuple[str, str, Callable[[RecordedLooks], Shown]]] = [
        (OURS, SHIPPED, ours),
        (OURS, "no windows", functools.partial(ours, with_windows=False)),
    ]
    chosen: dict[str, Settings] = {}
    for name in ("bytetrack", "ocsort"):
        chosen[name] = choose(name, choosing)
        print(f"chosen: {name}, {chosen[name]}", flush=True)
        for which, settings in (("defaults", {}), ("chosen", chosen[name])):
            sides.append((name, which, _with(name, settings)))
    rows = [
        {
            "clip": looks.clip.name,
            "role": looks.clip.role,
            "tracker": name,
            "settings": which,
            "frames": len(looks.boxes),
            **figures(looks, track(looks)),
        }
        for looks in all_looks
        for name, which, track in sides
    ]
    Console(width=160).print(as_text(rows))
    stated = conditions(
        ["numpy", "openvino", "supervision", "trackers", "trackeval"], detector=_DETECTOR
    )
    return {"rows": rows, "chosen": chosen, "conditions": stated}


def _with(name: str, settings: Settings) -> Callable[[RecordedLooks], Shown]:
    def track(looks: RecordedLooks) -> Shown:
        return rival(name, settings, looks)

    return track


def as_text(rows: Sequence[Row]) -> Table:
    """Return the rows as text."""
    text = Table("clip", "tracker", "settings")
    keys = ("precision", "recall", "f1", "hota", "idf1", "id_switches", "jumps")
    for key in keys:
        text.add_column(key, justify="right")
    for row in rows:
        cells = ["-" if row[key] is None else f"{row[key]:.4g}" for key in keys]
        text.add_row(row["clip"], row["tracker"], row["settings"], *cells)
    return text


def bars(result: BenchmarkResult) -> Iterator[Bar]:
    """Yield the targets: ours against the best of the others.

    On each clip with labelled tracks, and in the mean over all clips that report.
    """
    f1s: dict[tuple[str, str], list[float]] = {}
    for row in result["rows"]:
        if row["role"] == "reports":
            f1s.setdefault((row["tracker"], row["settings"]), []).append(row["f1"] or 0.0)
    means = {side: float(np.mean(values)) for side, values in f1s.items()}
    own_mean = means.get((OURS, SHIPPED))
    if own_mean is not None:
        less = own_mean - max(mean for (name, _), mean in means.items() if name != OURS)
        yield Bar("clips that report: mean f1 less the best other", less, ">=", 0.0)
    for clip in (PETS, NIGHT):
        rows = [row for row in result["rows"] if row["clip"] == clip]
        own = [row for row in rows if (row["tracker"], row["settings"]) == (OURS, SHIPPED)]
        others = [row for row in rows if row["tracker"] != OURS]
        if not own:
            continue
        for key in ("f1", "hota"):
            best = max(row[key] or 0.0 for row in others)
            yield Bar(f"{clip}: {key} less the best other", own[0][key] - best, ">=", 0.0)


BENCHMARK = Benchmark(
    name="trackers",
    measure=whole,
    needs=("clips", "bench"),
    bars=bars,
    keyed=("chosen", "bytetrack", "ocsort"),
    options={
        "clips": Option((), ("bottle-detection", PETS), "names of some labelled clips"),
        "frames": Option(0, 30, "of each clip, from its first; 0: up to the last label"),
        "cache": Option("", None, "folder that keeps the looks for the next run"),
    },
)

if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
