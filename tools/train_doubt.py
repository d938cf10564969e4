"""Train doubt and write `doubt.toml`: lessons from footage, and figures of held-out clips.

    python -m tools.train_doubt DATA LESSONS [--out FILE]

DATA is a folder with clips/, images/coco128 and gt/coco128.json; LESSONS one for what the two
detectors say of them (`doubt_lessons`): what it lacks is made, some ten minutes of one core.

What a frame is like depends on which frames before it heavy was asked about. So each clip is gone
through many times: first it is asked by the toss of coins of many kinds, then where the model that
this gave is in doubt, by many thresholds. What is fitted is the logit of a frame being served wrong
without asking: of some class it has another number of objects than heavy sees. Every kind of
footage weighs the same, however long. Printed are figures for each real clip by a model that never
saw it, and for a third of the composed ones.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import numpy as np
from scipy.optimize import minimize
from scipy.stats import rankdata

from framegate.models.boxes import AnyArray
from framegate.models.detector import detector, policy
from framegate.models.detector.detector import Detector
from framegate.models.picture import Picture, as_picture
from framegate.models.tracking import score_thresholds
from framegate.models.tracking.track_state import no_tracks
from framegate.pipeline.contracts.queries import Predictions
from framegate.pipeline.contracts.results import Object
from framegate.pipeline.contracts.source import Request
from framegate.stages.decode.file import FileSource
from framegate.stages.detect.estimate import EstimateSettings, look_at, settings_for
from framegate.stages.detect.memory import CurrentFrame, SourceMemory
from framegate.stages.detect.options import GateOptions
from framegate.stages.detect.output import detections_of
from framegate.stages.detections import Detections
from framegate.stages.escalate.corrections import Corrections, learned, served
from framegate.stages.escalate.doubt import WEIGHTS, Evidence, Weights, doubt, evidence
from framegate.stages.model_adapters import as_boxes, as_predictions
from tools.compose_footage import FPS, Photograph, compose, read_photographs

# -- What doubt learns from: footage as the light path sees it, and what the heavy pass says of
# it. Footage that may be learned from: three clips that are CC BY 4.0, and clips composed from
# the 128 photographs of COCO128.


CLIPS: Final = ("bottle-detection", "car-detection", "one-by-one-person-detection")
COMPOSED: Final = tuple(f"composed-{seed}" for seed in range(1000, 1014))
_COMPOSED_FRAMES: Final = 90
_KEY_EVERY: Final = 12  # frames of composed footage
_KEY: Final = b"doubt"
Shot = tuple[Picture, float | None, bool]


class Sight(msgspec.Struct, frozen=True, array_like=True):
    """A frame: what detect says of it, the source's clock, what the heavy pass sees."""

    found: Detections
    now_s: float
    seen: Predictions


def lessons(data: Path, folder: Path) -> dict[str, list[Sight]]:
    """Every clip; made and kept in `folder` where it is not there yet: about ten minutes.

    data  a folder with clips/, images/coco128 and gt/coco128.json
    """
    folder.mkdir(parents=True, exist_ok=True)
    missing = [name for name in (*CLIPS, *COMPOSED) if not (folder / f"{name}.msgpack").exists()]
    if missing:
        photographs = read_photographs(data / "images" / "coco128", data / "gt" / "coco128.json")
        light, heavy = light_detector(), detector.load("heavy")
        for name in missing:
            sights = _lesson(_footage(name, data, photographs), light, heavy)
            (folder / f"{name}.msgpack").write_bytes(msgspec.msgpack.encode(sights))
            print(name, len(sights), flush=True)
    return {
        name: msgspec.msgpack.decode((folder / f"{name}.msgpack").read_bytes(), type=list[Sight])
        for name in (*CLIPS, *COMPOSED)
    }


def light_detector() -> Detector:
    """As detect has it with its default options, on one thread."""
    candidate = score_thresholds.settings_for(policy.load("light").min_score)[0].candidate
    return detector.load("light", None, 1, min_score=candidate)


def watched(
    shots: Iterable[Shot], light: Detector, settings: EstimateSettings, key: bytes = _KEY
) -> Iterator[tuple[Picture, Detections, float]]:
    """Each frame, what detect says of it, and the source's clock."""
    memory, tracks = SourceMemory(), no_tracks()
    for picture, pts, key_frame in shots:
        size = picture.width, picture.height
        frame = CurrentFrame(memory, tracks, size, pts, key_frame, key)
        plan, estimate = look_at(light, frame, picture, settings)
        memory, tracks = estimate.memory, estimate.tracks
        yield picture, detections_of(plan, estimate, light.models), plan.now_s


def _lesson(shots: Iterable[Shot], light: Detector, heavy: Detector) -> list[Sight]:
    settings = settings_for(GateOptions(), policy.load("light"))
    return [
        Sight(found, now_s, as_predictions(heavy.detect([picture])[0], ()))
        for picture, found, now_s in watched(shots, light, settings)
    ]


def _footage(name: str, data: Path, photographs: Sequence[Photograph]) -> Iterator[Shot]:
    if name in CLIPS:
        source = FileSource(Request(str(data / "clips" / f"{name}.mp4")))
        try:
            for frame in source.frames():
                buffer = memoryview(bytearray(frame.nbytes))
                frame.write(buffer)
                yield as_picture(buffer, frame.form), frame.pts, frame.key_frame
        finally:
            source.close()
        return
    pictures = compose(photographs, int(name.rpartition("-")[2]), _COMPOSED_FRAMES)
    for number, picture in enumerate(pictures):
        yield picture, number / FPS, number % _KEY_EVERY == 0


AskRule = Callable[[int, Evidence], bool]

SHARES: Final = (0.5, 0.2, 0.1, 0.05, 0.02, 0.005)  # of frames asked about by a coin
THRESHOLDS: Final = (0.02, 0.05, 0.1, 0.2, 0.4, 0.7)
_SHRINK: Final = 0.001  # what a slope costs, by its square, of standardised facts
_REAL: Final = 0.5  # of the training, the rest is composed footage


class DoubtExamples(NamedTuple):
    """Frames of a clip: facts (N, E), and whether each would have been served wrong, 0 or 1."""

    facts: AnyArray
    wrong: AnyArray


def counts(objects: Sequence[Object]) -> list[int]:
    """Class of each, in order: what makes two frames say the same numbers."""
    return sorted(each.class_id for each in objects)


def walked(sights: Sequence[Sight], asks: AskRule) -> DoubtExamples:
    """A clip from its first frame to its last, asked where `asks` says so."""
    known = Corrections()
    facts, wrong = [], []
    for number, sight in enumerate(sights):
        objects, after = served(known, sight.found, sight.now_s)
        facts.append(evidence(after, sight.found, sight.now_s))
        wrong.append(counts(objects) != sorted(sight.seen.class_ids))
        known = after
        if asks(number, facts[-1]):
            known, _ = learned(known, sight.found, as_boxes(sight.seen), sight.now_s)
    return DoubtExamples(np.array(facts, np.float64), np.array(wrong, np.float64))


def tossed(sights: Sequence[Sight]) -> DoubtExamples:
    """A clip asked about by coins of all kinds; the first frame with every other coin."""

    def by_coin(seed: int, share: float) -> DoubtExamples:
        coin = np.random.default_rng(seed).random(len(sights)) < share
        coin[0] |= seed % 2 == 0
        return walked(sights, lambda number, _: bool(coin[number]))

    return joined([by_coin(seed, share) for seed, share in enumerate(SHARES)])


def doubted(sights: Sequence[Sight], weights: Weights) -> DoubtExamples:
    """A clip asked about where it is in doubt, by all thresholds."""

    def from_least(least: float) -> DoubtExamples:
        return walked(sights, lambda _, facts: doubt(facts, weights).chance >= least)

    return joined([from_least(least) for least in THRESHOLDS])


def joined(parts: Sequence[DoubtExamples]) -> DoubtExamples:
    """One after the other."""
    return DoubtExamples(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def fitted(clips: Mapping[str, DoubtExamples]) -> Weights:
    """The weights that make these frames most probable; real and composed clips weigh as they
    should.
    """
    real = [name for name in clips if name in CLIPS]
    each = {name: _REAL / len(real) for name in real}
    each |= {name: (1 - _REAL) / (len(clips) - len(real)) for name in clips if name not in each}
    facts, wrong = joined(list(clips.values()))
    sizes = [len(one.wrong) for one in clips.values()]
    worth = np.repeat([each[name] / n for name, n in zip(clips, sizes, strict=True)], sizes)
    mean = worth @ facts
    deviation = np.sqrt(worth @ (facts - mean) ** 2) + 1e-9
    columns = (facts - mean) / deviation

    def cost(at: AnyArray) -> tuple[float, AnyArray]:
        logit = at[0] + columns @ at[1:]
        lost = worth @ (np.logaddexp(0, logit) - wrong * logit)
        error = worth * (1 / (1 + np.exp(-logit)) - wrong)
        slope = np.concatenate([[error.sum()], error @ columns + 2 * _SHRINK * at[1:]])
        return float(lost + _SHRINK * at[1:] @ at[1:]), slope

    best = minimize(cost, np.zeros(1 + facts.shape[1]), jac=True, method="L-BFGS-B").x
    slopes = best[1:] / deviation
    return Weights(float(best[0] - slopes @ mean), Evidence(*slopes.tolist()))


def taught(clips: Mapping[str, Sequence[Sight]]) -> Weights:
    """Both rounds."""
    first = {name: tossed(sights) for name, sights in clips.items()}
    weights = fitted(first)
    both = {name: joined([first[name], doubted(sights, weights)]) for name, sights in clips.items()}
    return fitted(both)


def told(examples: DoubtExamples, weights: Weights) -> dict[str, float]:
    """How well a model foresees which frames are served wrong.

    auc  area under the ROC; ap: average precision; loss: of the logarithmic score, in nats
    """
    said = np.array([doubt(Evidence(*row), weights).chance for row in examples.facts.tolist()])
    wrong = examples.wrong > 0
    n, m = int(wrong.sum()), int((~wrong).sum())
    ranks = rankdata(said)
    hits = np.cumsum(wrong[np.argsort(-said, kind="stable")])
    precision = hits / np.arange(1, len(wrong) + 1)
    found = np.diff(hits, prepend=0)
    return {
        "auc": (ranks[wrong].sum() - n * (n + 1) / 2) / max(1, n * m),
        "ap": float(precision @ found) / max(1, n),
        "loss": -float(np.mean(np.log(np.where(wrong, said, 1 - said)))),
        "doubt": float(said.mean()),
        "wrong": float(wrong.mean()),
    }


def held_out(clips: Mapping[str, Sequence[Sight]], names: Sequence[str]) -> tuple[str, str]:
    """Figures and reliability for clips by a model that did not see them, as lines to print."""
    weights = taught({name: sights for name, sights in clips.items() if name not in names})
    examples = joined([doubted(clips[name], weights) for name in names])
    figures = "  ".join(f"{key} {value:.3f}" for key, value in told(examples, weights).items())
    said = np.array([doubt(Evidence(*row), weights).chance for row in examples.facts.tolist()])
    bins = np.digitize(said, THRESHOLDS)
    rows = [
        f"{said[bins == i].mean():.3f}:{examples.wrong[bins == i].mean():.3f}"
        for i in range(len(THRESHOLDS) + 1)
        if (bins == i).any()
    ]
    return figures, "said:was " + " ".join(rows)


def written(weights: Weights, notes: Sequence[str]) -> str:
    """`doubt.toml`."""
    slopes = "\n".join(f"{name} = {value:.4f}" for name, value in weights.slopes._asdict().items())
    head = "\n".join(f"# {line}" for line in notes)
    return f"{head}\n\nintercept = {weights.intercept:.4f}\n\n[slopes]\n{slopes}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("lessons", type=Path)
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    given = parser.parse_args()
    clips = lessons(given.data, given.lessons)
    notes = [
        "Weights of escalate.doubt: from the features of a frame to the logit of a wrong result.",
        "Made by `python -m tools.train_doubt`. The results below are for held-out clips.",
    ]
    for names in (*((name,) for name in CLIPS), COMPOSED[::3]):
        figures, reliability = held_out(clips, names)
        notes.append(f"{names[0] if len(names) == 1 else 'composed'}: {figures}")
        print(notes[-1], reliability, sep="\n", flush=True)
    given.out.write_text(written(taught(clips), notes), encoding="utf-8")
    print(given.out)


if __name__ == "__main__":
    main()
