"""Search of visits: five marks against rivals by labels made by eye, words, and times.

    python -m benchmarks.alike [--data FOLDER] [--visits FILE] [--quick] [--write]

A run of Framegate on each labelled clip makes visits; `LABELS.md` has what a person sees of them.
For each question, five visits of the first 60 % of the time are drawn as marks, five times. Only
visits that had ended by then are learned from, also without a mark, and set a mean or a scale. The
visits of the last 35 % are put in order: as by a rule that was written before them. The rivals get
the same marks and the same visits:

path      nearest neighbour on the numbers of the path, the size and the speed
features  nearest neighbour on the frozen features of the network
logistic  logistic regression, as ours, on the frozen features
label     the class that most marks have, by score
random    the mean of a hundred random orders

The figures and the bars are those of questions about clips that only report; `by_role` has the
others. `--visits` reads the visits of an earlier run instead of running the clips. `--quick` reads
those that are committed, and searches fewer visits. Times are the least of several.
"""

from __future__ import annotations

import argparse
import sqlite3
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from benchmarks.alike import questions, runs, visit_labels
from benchmarks.alike.questions import Question
from benchmarks.alike.runs import RunVisit
from benchmarks.alike.visit_labels import VisitLabels
from benchmarks.harness.report import Bar, Benchmark, BenchmarkResult, Option, conditions
from benchmarks.truth import clips
from framegate.pipeline.contracts.likeness import MIN_MARKS, NAMES, NUMBERS, Likeness
from framegate.pipeline.contracts.records import Position
from framegate.pipeline.contracts.visits import Visit, VisitEntry
from framegate.pipeline.recording import changed_parts
from framegate.pipeline.review.event_database import FILE, opened
from framegate.pipeline.review.likeness_fit import fit
from framegate.pipeline.review.projection import VISIT_COLUMNS, Projection
from framegate.pipeline.review.visit_index import VisitIndex
from framegate.pipeline.review.visit_search import (
    VisitTable,
    by_likeness,
    by_words,
    table_of,
)
from framegate.pipeline.review.visits import VisitQuery, mark_visit, search

DRAWS: Final = 5
FIRST: Final = 10  # results whose precision counts
FPS: Final = 25
DAY_S: Final = 86_400
_ORDERS: Final = 100
_PATH: Final = NAMES.index("score")  # numbers before it are those of path, size and speed
_SAMPLES: Final = 2000

WORDS: Final[Mapping[str, str]] = {
    "vehicles that come towards the camera": "vehicle, down",
    "white vehicles": "vehicle, white",
    "white vehicles that come towards the camera": "vehicle, white, down",
    "people who walk to the left": "person, left",
    "people who walk to the right": "person, right",
    "people in black": "person, black",
    "objects that stop": "stops",
}
"""Questions that the words of a search can ask."""

Scores = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Asked:
    """A question with the visits that it is about.

    table     all visits of its clips
    teaches   rows of the visits that had ended when a rule learns, with a mark or without
    features  float64 (N, 96), as the network made them
    is_true   bool (N,)  whether a visit is what is asked
    is_judged bool (N,)  whether it counts
    marks     rows from which marks are drawn
    judge     rows that are put in order
    """

    table: VisitTable
    teaches: list[int]
    features: npt.NDArray[np.float64]
    is_true: npt.NDArray[np.bool_]
    is_judged: npt.NDArray[np.bool_]
    marks: list[int]
    judge: list[int]


def asked(
    question: Question, visits: Sequence[RunVisit], all_labels: Mapping[str, VisitLabels]
) -> Asked:
    """Return a question with the visits of its clips."""
    rows = [each for each in visits if each.clip in question.clips]
    best: dict[tuple[str, int], int] = {}
    for row, each in enumerate(rows):
        if each.shows is not None:
            key = each.clip, each.shows
            other = best.setdefault(key, row)
            if each.frames > rows[other].frames:
                best[key] = row
    ends = [each.last / all_labels[each.clip].frames for each in rows]
    teaches = [row for row, end in enumerate(ends) if end < questions.TEACHES_UNTIL]
    is_true = np.zeros(len(rows), np.bool_)
    is_judged = np.zeros(len(rows), np.bool_)
    marks, judge = [], []
    for row, each in enumerate(rows):
        labels = all_labels[each.clip]
        truth: bool | None = False
        if each.shows is not None:
            label = next(seen for seen in labels.visits if seen.visit == each.shows)
            truth = questions.answer(question, label)
            is_fragment = best[each.clip, each.shows] != row
            if is_fragment:
                truth = None
        if truth is None or not each.is_sure:
            continue
        is_judged[row] = True
        is_true[row] = truth
        if ends[row] < questions.TEACHES_UNTIL and truth:
            marks.append(row)
        elif ends[row] >= questions.JUDGES_FROM:
            judge.append(row)
    table = table_of([each.visit for each in rows])
    return Asked(table, teaches, _features(rows), is_true, is_judged, marks, judge)


def _features(rows: Sequence[RunVisit]) -> npt.NDArray[np.float64]:
    features = np.zeros((len(rows), 96))
    for row, each in enumerate(rows):
        values = np.frombuffer(each.visit.feature, np.int8).astype(np.float64)
        features[row, : values.size] = values
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    scaled: npt.NDArray[np.float64] = features / np.maximum(lengths, 1e-9)
    return scaled


# -- Ours and the rivals: the score of each visit by the marks.


def _ours(query: Asked, marks: Sequence[int]) -> Scores:
    return by_likeness(query.table, _fitted(query, query.table.numbers, marks))


def _fitted(query: Asked, numbers: npt.NDArray[np.float32], marks: Sequence[int]) -> Likeness:
    """Return the likeness to marks, learned from the visits that teach only.

    numbers  float32 (NUMBERS, N) of all visits
    """
    rows = query.teaches
    taught = VisitTable(
        query.table.began[rows],
        query.table.sources[rows],
        query.table.source_names,
        query.table.labels[rows],
        query.table.label_names,
        np.ascontiguousarray(numbers[:, rows]),
        {},
    )
    return fit(taught, [rows.index(mark) for mark in marks])


def _by_path(query: Asked, marks: Sequence[int]) -> Scores:
    numbers = query.table.numbers[:_PATH].astype(np.float64)
    scale = np.maximum(numbers[:, query.teaches].std(1, keepdims=True), 1e-6)
    return _nearest((numbers / scale).T, marks)


def _by_features(query: Asked, marks: Sequence[int]) -> Scores:
    return _nearest(query.features, marks)


def _nearest(points: npt.NDArray[np.float64], marks: Sequence[int]) -> Scores:
    apart = np.linalg.norm(points[:, None] - points[list(marks)][None], axis=2)
    return -np.asarray(apart.min(1))


def _logistic(query: Asked, marks: Sequence[int]) -> Scores:
    """Fit ours to features, NUMBERS of them at a time, and add the sums."""
    total = np.zeros(len(query.table))
    for start in range(0, query.features.shape[1], NUMBERS):
        part = query.features[:, start : start + NUMBERS]
        columns = np.zeros((NUMBERS, len(part)), np.float32)
        columns[: part.shape[1]] = part.T
        likeness = _fitted(query, columns, marks)
        total += np.array(likeness.weights) @ columns
    return total


def _by_label(query: Asked, marks: Sequence[int]) -> Scores:
    [(label, _)] = Counter(query.table.labels[list(marks)].tolist()).most_common(1)
    scores: Scores = (query.table.labels == label) + query.table.number("score")
    return scores


SIDES: Final[Mapping[str, Callable[[Asked, Sequence[int]], Scores]]] = {
    "ours": _ours,
    "path": _by_path,
    "features": _by_features,
    "logistic": _logistic,
    "label": _by_label,
}


# -- Figures.


def average_precision(is_true: npt.NDArray[np.bool_], scores: Scores) -> float:
    """Return the mean precision at each true visit, in the order of scores, the highest first."""
    ordered = is_true[np.argsort(-scores, kind="stable")]
    precision = np.cumsum(ordered) / np.arange(1, len(ordered) + 1)
    return float(precision[ordered].mean())


def precision_first(is_true: npt.NDArray[np.bool_], scores: Scores) -> float:
    """Return the precision of the first FIRST visits, or of as many as there are true ones."""
    first = min(FIRST, int(is_true.sum()))
    return float(is_true[np.argsort(-scores, kind="stable")[:first]].mean())


@dataclass(frozen=True)
class Judged:
    """The figures of a question at five marks, of each side in each draw.

    ap         average precision
    precision  of the first FIRST visits
    """

    ap: dict[str, list[float]]
    precision: dict[str, list[float]]


def judge_question(query: Asked) -> Judged:
    """Return the figures of each side in each draw."""
    truth = query.is_true[query.judge]
    judged = Judged({name: [] for name in (*SIDES, "random")}, {name: [] for name in SIDES})
    for draw in range(DRAWS):
        random = np.random.default_rng(draw)
        marks = sorted(random.permutation(query.marks)[:MIN_MARKS].tolist())
        for name, side in SIDES.items():
            scores = np.asarray(side(query, marks), np.float64)[query.judge]
            judged.ap[name].append(average_precision(truth, scores))
            judged.precision[name].append(precision_first(truth, scores))
        orders = [average_precision(truth, random.random(len(truth))) for _ in range(_ORDERS)]
        judged.ap["random"].append(float(np.mean(orders)))
    return judged


def role_of(question: Question) -> str:
    """Return `reports` or `chooses` if all clips of a question have this role, else `both`."""
    roles = {clips.ROLES[clip] for clip in question.clips}
    if len(roles) == 1:
        return str(roles.pop())
    return "both"


def figures(judged: Sequence[Judged], words: Sequence[float]) -> dict[str, Any]:
    """Return the means of questions; `worst` is the draw in which it is least.

    words  precision of the first FIRST visits by words
    """
    ap = {name: np.mean([each.ap[name] for each in judged], axis=0) for name in (*SIDES, "random")}
    precision = np.mean([each.precision["ours"] for each in judged], axis=0)
    rivals = [each for name, each in ap.items() if name != "ours"]
    ahead = ap["ours"] - np.max(rivals, axis=0)
    per_question = np.mean([each.ap["ours"] for each in judged], axis=1)
    random = np.random.default_rng(0)
    drawn = random.choice(per_question, (_SAMPLES, len(per_question))).mean(1)
    return {
        "asked": len(judged),
        "mean_ap": {name: round(float(each.mean()), 3) for name, each in ap.items()},
        "worst_draw_ap": {name: round(float(each.min()), 3) for name, each in ap.items()},
        "ap_interval": [round(float(edge), 3) for edge in np.quantile(drawn, (0.025, 0.975))],
        "worst_ahead": round(float(ahead.min()), 3),
        "mean_marks_precision": round(float(precision.mean()), 3),
        "worst_marks_precision": round(float(precision.min()), 3),
        "mean_words_precision": round(float(np.mean(words)), 3),
    }


_COPIES: Final = """WITH RECURSIVE copy (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM copy LIMIT ?)
INSERT INTO visits (id, began_captured, width, height, speed, {names})
SELECT id || '-' || n, began_captured + 30.0 * n,
  width * (1 + 0.01 * (abs(random()) % 1000) / 1000), height, speed, {names}
FROM copy JOIN visits LIMIT ?"""
# A copy has the numbers of another visit, which cost a search as much as its own.
_SEARCHED: Final = """INSERT INTO searched
SELECT own.number, own.began_captured, own.source, own.label, of.sounds, of.numbers
FROM visits own JOIN searched of ON of.number = 1 + (own.number - 1) % ?1 WHERE own.number > ?1"""
_MOVED: Final = ("id", "began_captured", "width", "height", "speed")


def fill(file: Path, visits: Sequence[Visit], count: int) -> None:
    """Make a database of `count` visits: those of the clips over and over, moved a little."""
    projection = Projection(file)
    for number, visit in enumerate(visits):
        position = Position(1, number + 1)
        before = Position(1, number)
        projection.take([VisitEntry(visit.source, position, before, (visit,))])
    projection.close()
    names = ", ".join(name for name in (*VISIT_COLUMNS, "kept") if name not in _MOVED)
    with closing(sqlite3.connect(file)) as database:
        copies = -(-count // len(visits))
        rest = count - len(visits)
        database.execute(_COPIES.format(names=names), (copies, rest))
        database.execute(_SEARCHED, (len(visits),))
        database.commit()


def least_ms(ask: Callable[[], object], times: int) -> float:
    """Return the least of several times of a call."""
    took = []
    for _ in range(times):
        start = time.perf_counter()
        ask()
        took.append(1e3 * (time.perf_counter() - start))
    return round(min(took), 1)


def search_ms(visits: Sequence[Visit], count: int, times: int) -> dict[str, float]:
    """Return the milliseconds of a search of a database with `count` visits.

    first   the first search of a process: it reads all visits
    others  by words, by example and by marks, each after a new visit
    """
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / FILE
        fill(file, visits, count - 4 * times)  # with the new ones `count` at most
        for visit in visits[:MIN_MARKS]:
            mark_visit(file, "van", visit.id, True, 0.0)
        index = VisitIndex()
        asked = {
            "first": VisitQuery(),
            "words": VisitQuery("vehicle, left, not stops, after 22:00"),
            "example": VisitQuery(like=visits[7].id),
            "marks": VisitQuery(marks="van", is_trained=True),
        }
        took = {}
        with closing(sqlite3.connect(file)) as database:
            columns = ", ".join((*VISIT_COLUMNS[1:], "kept"))
            add = (
                f"INSERT INTO visits (id, {columns}) SELECT 'new-' || (SELECT max(number) FROM"
                f" visits), {columns} FROM visits WHERE number = 1"
            )
            for way, query in asked.items():
                spans = []
                for _ in range(times):
                    database.execute(add)
                    database.execute(
                        "INSERT INTO searched SELECT (SELECT max(number) FROM visits), began,"
                        " source, label, sounds, numbers FROM searched WHERE number = 1"
                    )
                    database.commit()
                    spans.append(_search_ms(file, index, query))
                    if way == "first":
                        break
                took[way] = round(min(spans), 1)
        return took


def _search_ms(file: Path, index: VisitIndex, query: VisitQuery) -> float:
    start = time.perf_counter()
    with opened(file) as database:
        search(index, database, query)
    return 1e3 * (time.perf_counter() - start)


def region_ms(seconds: int, times: int) -> float:
    """Return the milliseconds of a question about a region, for a camera at 25 frames a second.

    One of eight bits of the parts of each frame is set, so no page of a file is empty.
    """
    frames = changed_parts.FRAMES
    random = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        data = Path(name)
        folder = data / changed_parts.FOLDER / "camera"
        folder.mkdir(parents=True)
        for first in range(0, seconds * FPS, frames):
            moments = np.zeros(frames)
            count = min(frames, seconds * FPS - first)
            moments[:count] = 1.7e9 + (first + np.arange(count)) / FPS
            drawn = random.integers(0, 256, (3, frames, changed_parts.PART_BYTES), np.uint8)
            content = moments.tobytes() + (drawn[0] & drawn[1] & drawn[2]).tobytes()
            (folder / f"1-{first}-1920x1080.parts").write_bytes(content)
        region = (0.4, 0.4, 0.5, 0.5)
        return least_ms(lambda: changed_parts.changes_of_region(data, "camera", region), times)


def measure(given: argparse.Namespace) -> BenchmarkResult:
    """Return the whole result."""
    asked_clips = {clip for question in questions.read() for clip in question.clips}
    all_labels = {
        name: labels for name, labels in visit_labels.read_all().items() if name in asked_clips
    }
    if given.visits:
        visits = runs.read(Path(given.visits))
    else:
        visits = runs.run_clips(given.data, all_labels)
    if given.write:
        runs.write(visits)
    rows = []
    words: dict[str, float] = {}
    judged: dict[str, Judged] = {}
    roles = {question.name: role_of(question) for question in questions.read()}
    for question in questions.read():
        query = asked(question, visits, all_labels)
        truth = query.is_true[query.judge]
        row: dict[str, Any] = {
            "question": question.name,
            "role": roles[question.name],
            "marks": len(query.marks),
            "true": int(truth.sum()),
            "judged": len(truth),
            "ap": None,
            "marks_precision": None,
        }
        if question.name in WORDS:
            scores = by_words(query.table, WORDS[question.name])[query.judge]
            words[question.name] = round(precision_first(truth, scores), 3)
        if len(query.marks) >= MIN_MARKS and truth.any() and not truth.all():
            found = judged[question.name] = judge_question(query)
            row["ap"] = {name: round(float(np.mean(each)), 3) for name, each in found.ap.items()}
            row["marks_precision"] = round(float(np.mean(found.precision["ours"])), 3)
        rows.append(row)
    by_role = {}
    for role in ("reports", "chooses", "both"):
        by_role[role] = figures(
            [each for name, each in judged.items() if roles[name] == role],
            [each for name, each in words.items() if roles[name] == role],
        )
    by_role["all"] = figures(list(judged.values()), list(words.values()))
    searched = search_ms([each.visit for each in visits], given.many, given.times)
    first_ms = searched.pop("first")
    return {
        "visits": len(visits),
        "labelled": sum(len(labels.visits) for labels in all_labels.values()),
        "shown": len({(each.clip, each.shows) for each in visits if each.shows is not None}),
        **by_role.pop("reports"),
        "by_role": by_role,
        "words_precision": words,
        "questions": rows,
        "search_ms": searched,
        "first_search_ms": first_ms,
        "region_ms": region_ms(given.seconds, given.times),
        "conditions": conditions(("numpy",), many=given.many, seconds=given.seconds, draws=DRAWS),
    }


def bars(result: BenchmarkResult) -> list[Bar]:
    """Return what is wanted."""
    return [
        Bar("mean AP at five marks, worst draw", result["worst_draw_ap"]["ours"], ">=", 0.8),
        Bar("mean AP above the best rival, worst draw", result["worst_ahead"], ">=", 0.05),
        Bar(
            "precision of the first ten at five marks, worst draw",
            result["worst_marks_precision"],
            ">=",
            0.8,
        ),
        Bar("precision of the first ten by words", result["mean_words_precision"], ">=", 0.8),
        Bar(
            "a search of a million visits after a new one, ms",
            max(result["search_ms"].values()),
            "<=",
            200.0,
        ),
        Bar("a region over a day, ms", result["region_ms"], "<=", 500.0),
    ]


BENCHMARK = Benchmark(
    name="alike",
    measure=measure,
    options={
        "visits": Option("", str(runs.VISITS), "read the visits of an earlier run"),
        "many": Option(1_000_000, 100_000),
        "seconds": Option(DAY_S, 3600),
        "times": Option(5, 2),
    },
    bars=bars,
    keyed=("words_precision",),
)
