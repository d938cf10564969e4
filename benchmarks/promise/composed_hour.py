"""An hour of a quiet camera, composed: real things moving over real scenes, and the exact truth.

    python -m benchmarks.promise.composed_hour DATA OUT.mp4 [--frames N] [--seed 0] [--noise 0]

Five frames a second. Most of the time nothing changes. Then something comes in at a side, alone or
with others, passes, often stands a while, and leaves; now and then the light changes slowly. One
scene after another has an equal part of the time. A seed decides everything. OUT.json gets, for
each frame, what is there: number of the visit, class, box, and how much of it can be seen.

Unlike a camera's, its pictures have no noise of a sensor (`--noise` adds some) and a key frame only
every ten minutes: where nothing changes, decoded pictures are equal, byte by byte.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import av
import numpy as np
import numpy.typing as npt

from benchmarks.promise.composed_parts import Parts, Thing, read_parts
from framegate.models.picture import ByteArray
from tools.compose_footage import Mover

Random = np.random.Generator
Floats = npt.NDArray[np.float32]

FPS: Final = 5
HOUR: Final = 3600 * FPS
_KEY_EVERY: Final = 600 * FPS
_GAP: Final = (40, 220)  # frames without anybody
_HALTS: Final = (0.4, 50, 300)  # how often, and frames
_TOGETHER: Final = (0.7, 0.2, 0.1)  # one, two, three at once
_DOUBTFUL: Final = 0.06
_TALL: Final = (0.28, 0.55)  # of the picture
_WIDE: Final = 0.45
_SPEED: Final = (0.015, 0.04)  # of the picture's width, a frame
_LIGHT_EVERY: Final = 3000  # frames


@dataclass(frozen=True, slots=True)
class Seen:
    """A thing in a frame. visit: its number; box: x1, y1, x2, y2 inside the picture, in pixels.

    share  0..1 of its opacity that is neither outside of the picture nor behind another thing
    """

    visit: int
    class_id: int
    box: tuple[float, float, float, float]
    share: float


@dataclass(frozen=True, slots=True, eq=False)
class Visit:
    """A thing on its way: `moves` frames in motion, and in their midst `halts` frames in none."""

    thing: Thing
    mover: Mover
    first: int
    moves: int
    halts: int

    @property
    def end(self) -> int:
        """The frame after its last."""
        return self.first + self.moves + self.halts

    def step(self, frame: int) -> int:
        """How many steps of its way it has gone in `frame`."""
        gone = frame - self.first
        return min(gone, self.moves // 2) + max(0, gone - self.moves // 2 - self.halts)


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """A stretch of footage in one scene. light: float32 (F,), a factor for each frame."""

    scene: ByteArray
    visits: tuple[Visit, ...]
    light: Floats


def plan(parts: Parts, n_frames: int, seed: int) -> list[Part]:
    """What happens in `n_frames`, each scene in turn."""
    edges = np.linspace(0, n_frames, len(parts.scenes) + 1).astype(int)
    out = []
    for number, (scene, (first, end)) in enumerate(zip(parts.scenes, pairwise(edges), strict=True)):
        rng = np.random.default_rng((seed, number))
        size = scene.shape[1], scene.shape[0]
        frames = int(end - first)
        out.append(Part(scene, tuple(_visits(parts, size, frames, rng)), _light(frames, rng)))
    return out


def _visits(parts: Parts, size: tuple[int, int], n_frames: int, rng: Random) -> Iterator[Visit]:
    """Groups of one to three, one group after the other; who would not be gone stays away."""
    at = int(rng.integers(*_GAP))
    while at < n_frames:
        together = 1 + int(rng.choice(len(_TOGETHER), p=_TOGETHER))
        later = [at + n * int(rng.integers(0, 25)) for n in range(together)]
        group = [_visit(parts, size, first, rng) for first in later]
        end = max(visit.end for visit in group)
        if end <= n_frames:
            yield from group
            at = end
        at += int(rng.integers(*_GAP))


def _visit(parts: Parts, size: tuple[int, int], first: int, rng: Random) -> Visit:
    """From out of the picture at one side to out of it at the other."""
    kind = parts.doubtful if rng.random() < _DOUBTFUL and parts.doubtful else parts.clear
    thing = kind[int(rng.integers(len(kind)))]
    height, width = thing.alpha.shape
    scale = min(size[1] * rng.uniform(*_TALL) / height, size[0] * _WIDE / width)
    speed = size[0] * rng.uniform(*_SPEED)
    moves = round((size[0] + scale * width) / speed) + 1
    rightwards = rng.random() < 0.5
    x = -scale * width / 2 if rightwards else size[0] + scale * width / 2
    y = size[1] * rng.uniform(0.4, 0.7)
    mover = Mover(
        thing.bgr,
        thing.alpha,
        np.array([x, y]),
        np.array([speed if rightwards else -speed, rng.normal(0, 0.4)]),
        (rng.uniform(0, 2), rng.uniform(4, 9), rng.uniform(0, 6)),
        scale,
        1.0,
        (0, moves),
    )
    often, least, most = _HALTS
    halts = int(rng.integers(least, most)) if rng.random() < often else 0
    return Visit(thing, mover, first, moves, halts)


def _light(n_frames: int, rng: Random) -> Floats:
    """1 at first; now and then it goes within 20 to 50 s to another level, and stays there."""
    light = np.ones(n_frames, np.float32)
    for begin in range(_LIGHT_EVERY // 2, n_frames, _LIGHT_EVERY):
        frames = int(rng.integers(100, 250))
        before = light[begin]
        ramp = np.linspace(before, rng.uniform(0.7, 1.05), frames, dtype=np.float32)
        light[begin:] = ramp[-1]
        light[begin : begin + frames] = ramp[: n_frames - begin]
    return light


def draw(planned: Sequence[Part]) -> Iterator[tuple[ByteArray, tuple[Seen, ...]]]:
    """Picture and truth of each frame; the same picture object as before where nothing changed."""
    number = 0
    for part in planned:
        before: object = None
        for frame, light in enumerate(part.light):
            there = [
                (number + n, visit, visit.step(frame))
                for n, visit in enumerate(part.visits)
                if visit.first <= frame < visit.end
            ]
            now = (float(light), tuple((n, step) for n, _, step in there))
            if now != before:
                canvas, seen = _drawn(part.scene, there)
                picture = np.clip(np.round(canvas * light), 0, 255).astype(np.uint8)
                before = now
            yield picture, seen
        number += len(part.visits)


def _drawn(
    scene: ByteArray, there: Sequence[tuple[int, Visit, int]]
) -> tuple[Floats, tuple[Seen, ...]]:
    """The scene with what is there, the later ones in front."""
    size = scene.shape[1], scene.shape[0]
    canvas = scene.astype(np.float32)
    left: list[Floats] = []  # what of each one's opacity is still seen
    for _, visit, step in there:
        pixels, alpha = visit.mover.placed(step, size)
        canvas += (pixels - canvas) * alpha[..., None]
        left = [one * (1 - alpha) for one in left]
        left.append(alpha)
    seen = [
        Seen(number, visit.thing.class_id, _box(visit, step, size), _share(visit, remains))
        for (number, visit, step), remains in zip(there, left, strict=True)
    ]
    return canvas, tuple(one for one in seen if one.share > 0)


def _share(visit: Visit, remains: Floats) -> float:
    whole = float(visit.thing.alpha.sum()) * visit.mover.scale**2
    return round(min(1.0, float(remains.sum()) / whole), 4)


def _box(visit: Visit, step: int, size: tuple[int, int]) -> tuple[float, float, float, float]:
    x, y = visit.mover.middle(step)
    tall, wide = (visit.mover.scale * edge for edge in visit.thing.alpha.shape)
    across = np.clip([x - wide / 2, x + wide / 2], 0, size[0]).round(2).tolist()
    down = np.clip([y - tall / 2, y + tall / 2], 0, size[1]).round(2).tolist()
    return across[0], down[0], across[1], down[1]


def noisy(pictures: Iterable[ByteArray], sigma: float, seed: int) -> Iterator[ByteArray]:
    """Pictures with a sensor's noise of so many grey levels; themselves for 0."""
    rng = np.random.default_rng(seed)
    for picture in pictures:
        if not sigma:
            yield picture
            continue
        noise = sigma * rng.standard_normal(picture.shape, np.float32)
        yield np.clip(np.round(picture + noise), 0, 255).astype(np.uint8)


def encode(path: Path, pictures: Iterable[ByteArray]) -> None:
    """As H.264 without B-frames, on one thread: the same bytes on every machine of its kind.

    One quantiser for all frames: a rate control would go on improving what stands still.
    """
    options = {"preset": "veryfast", "qp": "20", "bf": "0", "g": str(_KEY_EVERY)}
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=FPS, options=options)
        stream.thread_count = 1
        stream.pix_fmt = "yuv420p"
        for number, picture in enumerate(pictures):
            if not number:
                stream.height, stream.width = picture.shape[:2]
            frame = av.VideoFrame.from_ndarray(picture, format="bgr24")
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))


def compose(
    parts: Parts, path: Path, n_frames: int, seed: int, noise: float = 0.0
) -> list[tuple[Seen, ...]]:
    """Write the footage to `path`; what is there in each frame."""
    truth: list[tuple[Seen, ...]] = []

    def pictures() -> Iterator[ByteArray]:
        for picture, seen in draw(plan(parts, n_frames, seed)):
            truth.append(seen)
            yield picture

    encode(path, noisy(pictures(), noise, seed))
    return truth


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--frames", type=int, default=HOUR)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--noise", type=float, default=0.0, help="grey levels of a sensor's noise")
    given = parser.parse_args()
    truth = compose(read_parts(given.data), given.out, given.frames, given.seed, given.noise)
    rows: list[Any] = [[[s.visit, s.class_id, *s.box, s.share] for s in seen] for seen in truth]
    given.out.with_suffix(".json").write_text(json.dumps(rows), encoding="utf-8")
    print(given.out, len(truth), "frames")


if __name__ == "__main__":
    main()
