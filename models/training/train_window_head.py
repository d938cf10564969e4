"""Trains the window head and writes `weights/window-head.safetensors` (needs the `train` extra).

    python -m framegate.models.training.train_window_head DATA LESSONS [--without CLIP] [--seed 0]
        [--out FILE]

DATA is a folder with clips/, images/coco128 and gt/coco128.json. LESSONS is a folder for what the
two detectors say about them: what it lacks is made, which takes most of an hour on two cores; the
training itself takes some ten minutes on one. Learned from: the first 400 frames of three clips
that are CC BY 4.0 (CLIPS), and 400 clips composed from the 128 photographs of COCO128. `--without`
leaves one of the three out, to be judged on it.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import av
import cv2
import torch
from safetensors.torch import save_file

from framegate.models.detector import detector, policy
from framegate.models.detector.network import Precision, nearest
from framegate.models.picture import Picture
from framegate.models.training.compose_footage import (
    FPS,
    Photograph,
    compose,
    planes_of,
    read_photographs,
)
from framegate.models.training.window_lessons import (
    CANDIDATE,
    HEAVY_LEAST,
    ClipLesson,
    keep,
    kept,
    seen,
)
from framegate.models.training.window_training import HeadTraining, Rounds
from framegate.models.weights import FOLDER

WEIGHTS = FOLDER
CLIPS = ("bottle-detection", "car-detection", "one-by-one-person-detection")
FRAMES = 400
COMPOSED = 400
LONG, SHORT = 40, 20  # frames of a composed clip: the first forty are long, so that windows fill
_LONG_ONES = 40


def lessons(data: Path, folder: Path) -> tuple[list[ClipLesson], list[ClipLesson]]:
    """The real and the composed ones; made and kept in `folder` if they are not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    photographs = read_photographs(data / "images" / "coco128", data / "gt" / "coco128.json")
    wanted = [*CLIPS, *(f"composed-{seed:03d}" for seed in range(COMPOSED))]
    missing = [name for name in wanted if not (folder / f"{name}.npz").exists()]
    if missing:
        light = detector.load("light", _precision("light"), 1, min_score=CANDIDATE, features=True)
        heavy = detector.load("heavy", _precision("heavy"), 2, min_score=HEAVY_LEAST)
        for name in missing:
            pictures, fps = footage(name, data, photographs)
            keep(seen(name, pictures, light, heavy, fps), folder / f"{name}.npz")
            print(name, len(pictures), flush=True)
    found = [kept(folder / f"{name}.npz") for name in wanted]
    return found[: len(CLIPS)], found[len(CLIPS) :]


def footage(name: str, data: Path, photographs: list[Photograph]) -> tuple[list[Picture], float]:
    """The pictures of a lesson, and how many there are a second."""
    if name in CLIPS:
        return clip(data / "clips" / f"{name}.mp4", FRAMES)
    seed = int(name.rpartition("-")[2])
    return compose(photographs, seed, LONG if seed < _LONG_ONES else SHORT), FPS


def clip(path: Path, most: int) -> tuple[list[Picture], float]:
    """The first pictures of a file, and its rate."""
    with av.open(str(path)) as file:
        rate = float(file.streams.video[0].average_rate or FPS)
        frames: Iterator[av.VideoFrame] = islice(file.decode(video=0), most)
        return [planes_of(frame) for frame in frames], rate


def _precision(name: str) -> Precision:
    return nearest(policy.load(name).precision)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("lessons", type=Path)
    parser.add_argument("--without", choices=CLIPS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=WEIGHTS / "window-head.safetensors")
    given = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    real, composed = lessons(given.data, given.lessons)
    real = [lesson for lesson in real if lesson.name != given.without]
    head = HeadTraining(real, composed, given.seed).teach(Rounds())
    save_file(head.state_dict(), given.out)
    print(given.out, sum(weight.numel() for weight in head.parameters()), "weights")


if __name__ == "__main__":
    main()
