"""Objects pasted into scenes that are known: is any answered by what the empty scene was?

Real objects are what labels of photographs frame, at many sizes; faint ones are the same, a quarter
opaque; plain ones are squares that are lighter or darker than what they cover by a stated contrast.
What changes no cell's mean by the stated bound is below the limit of what L2 promises to see: it is
counted apart. Each time the scene is another noise and another exposure away from what is known of
it. Deterministic by its seed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt

from models import crops
from models.boxes import empty
from models.cells import cells_of, grid_of
from models.gate import GateSettings
from models.near import Near, NearSettings
from models.picture import ByteArray, Picture, cut, read_photograph
from models.recall import Memory
from models.worth import Worth

SIDES: Final = (12, 16, 24, 32, 48, 64, 96)  # pixels, the shorter one
CONTRASTS: Final = (12, 16, 24, 40)  # levels of Y
LONG_SIDE: Final = 416
_FAINT: Final = 0.25  # opacity
_USING: Final = GateSettings()
_NOISE: Final = 2
_EXPOSURE: Final = 3.0  # levels up or down


@dataclass(frozen=True, slots=True, eq=False)
class Pasted:
    """A scene with something in it.

    kind      real, faint or plain
    side      pixels of its shorter side
    contrast  mean levels by which Y of its pixels differs from what it covers
    seen      levels by which it changes the mean of the cell that it changes most, in Y, Cb or Cr,
              those two as parts of their own bound
    """

    picture: Picture
    kind: str
    side: int
    contrast: float
    seen: float


def real_objects(data: Path, most: int = 400) -> list[Picture]:
    """What the labels of coco128 frame, each at least 24 pixels wide and high."""
    labels = json.loads((data / "gt" / "coco128.json").read_text())
    files = {image["id"]: image["file_name"] for image in labels["images"]}
    found: list[Picture] = []
    for label in labels["annotations"]:
        left, top, width, height = (round(v) for v in label["bbox"])
        if min(width, height) < 24 or label["iscrowd"]:
            continue
        photograph = read_photograph(data / "images" / "coco128" / files[label["image_id"]])
        right, bottom = min(left + width, photograph.width), min(top + height, photograph.height)
        found.append(cut(photograph, (left // 2 * 2, top // 2 * 2, right, bottom)))
        if len(found) == most:
            break
    return found


def disturbed(scene: Picture, rng: np.random.Generator) -> Picture:
    """The scene with noise of up to 2 levels on Y, and another exposure."""
    noise = rng.integers(-_NOISE, _NOISE + 1, scene.y.shape, np.int8)
    shift = rng.uniform(-_EXPOSURE, _EXPOSURE)
    luma = np.clip(np.rint(scene.y.astype(np.float32) + noise + shift), 0, 255).astype(np.uint8)
    return Picture(luma, scene.u, scene.v, scene.matrix, scene.full_range)


def with_real(
    scene: Picture, thing: Picture, side: int, opacity: float, rng: np.random.Generator
) -> Pasted:
    """A real object at a random place, its shorter side `side` pixels long."""
    scale = side / min(thing.width, thing.height)
    width = min(round(thing.width * scale), scene.width // 2) // 2 * 2
    height = min(round(thing.height * scale), scene.height // 2) // 2 * 2
    left, top = _place(scene, width, height, rng)
    y, u, v = (plane.copy() for plane in (scene.y, scene.u, scene.v))
    whole = np.s_[top : top + height, left : left + width]
    half = np.s_[top // 2 : (top + height) // 2, left // 2 : (left + width) // 2]
    for plane, own, part in ((y, thing.y, whole), (u, thing.u, half), (v, thing.v, half)):
        rows, columns = plane[part].shape
        over = _resized(own, columns, rows)
        plane[part] = np.rint(opacity * over + (1 - opacity) * plane[part]).astype(np.uint8)
    contrast = float(np.abs(y[whole].astype(int) - scene.y[whole]).mean())
    shown = _like(scene, y, u, v)
    return Pasted(shown, "real" if opacity == 1 else "faint", side, contrast, seen(scene, shown))


def with_plain(scene: Picture, contrast: int, side: int, rng: np.random.Generator) -> Pasted:
    """A square at a random place, lighter or darker by `contrast` than each pixel it covers."""
    left, top = _place(scene, side, side, rng)
    y = scene.y.copy()
    part = y[top : top + side, left : left + side]
    sign = 1 if part.mean() < 128 else -1
    part[:] = np.clip(part.astype(int) + sign * contrast, 0, 255)
    shown = _like(scene, y, scene.u, scene.v)
    return Pasted(shown, "plain", side, float(contrast), seen(scene, shown))


def seen(before: Picture, after: Picture) -> float:
    """The largest change of a cell's exact mean, in levels of Y; of Cb and Cr by their bound."""
    cell = grid_of(before.width, before.height).cell
    largest = 0.0
    for name, bound in (("y", 1.0), ("u", _USING.colour), ("v", _USING.colour)):
        change = getattr(after, name).astype(np.float32) - getattr(before, name)
        rows, columns = change.shape[0] // cell * cell, change.shape[1] // cell * cell
        cells = change[:rows, :columns].reshape(rows // cell, cell, columns // cell, cell)
        largest = max(largest, float(np.abs(cells.mean(axis=(1, 3))).max()) / bound)
    return largest


def stale_hits(
    scenes: Sequence[Picture], things: Sequence[Picture], memory: Memory, n: int, seed: int = 0
) -> dict[str, Any]:
    """`n` pasted objects, a third of each kind; as often the scenes without: those are to hit."""
    rng = np.random.default_rng(seed)
    near = Near(memory, b"", NearSettings(LONG_SIDE, 0.3, 0.01), _USING)
    for scene in scenes:
        for _ in range(4):
            _learn(near, disturbed(scene, rng))
    shown: list[tuple[Pasted, bool]] = []
    without = tried = 0
    while sum(each.seen >= _USING.tau_least for each, _ in shown) < n:
        pasted = _one(len(shown), scenes, things, rng)
        shown.append((replace(pasted, picture=scenes[0]), _is_known(near, pasted.picture)))
        without += _is_known(near, disturbed(scenes[tried % len(scenes)], rng))
        tried += 1
    visible = [(each, hit) for each, hit in shown if each.seen >= _USING.tau_least]
    return {
        "pasted": len(visible),
        "stale_hits": sum(hit for _, hit in visible),
        "below_limit": len(shown) - len(visible),
        "below_limit_hits": sum(hit for _, hit in shown) - sum(hit for _, hit in visible),
        "limit_levels": _USING.tau_least,
        "hit_rate_without_object": round(without / tried, 4),
        "kinds": [_told(kind, visible) for kind in ("real", "faint", "plain")],
        "scenes": len(scenes),
        "real_objects": len(things),
        "sides_px": list(SIDES),
        "plain_contrasts": list(CONTRASTS),
        "noise_levels": _NOISE,
        "exposure_levels": _EXPOSURE,
    }


def _one(
    number: int, scenes: Sequence[Picture], things: Sequence[Picture], rng: np.random.Generator
) -> Pasted:
    """The object of that number: the three kinds, sizes and contrasts in turn."""
    scene = disturbed(scenes[number % len(scenes)], rng)
    turn, kind = divmod(number, 3)
    side = SIDES[turn % len(SIDES)]
    if kind == 2:
        return with_plain(scene, CONTRASTS[turn // len(SIDES) % len(CONTRASTS)], side, rng)
    thing = things[int(rng.integers(len(things)))]
    return with_real(scene, thing, side, (1.0, _FAINT)[kind], rng)


def _told(kind: str, shown: Sequence[tuple[Pasted, bool]]) -> dict[str, Any]:
    mine = [(each, hit) for each, hit in shown if each.kind == kind]
    contrasts = [each.contrast for each, _ in mine]
    least, median = np.percentile(contrasts, [0, 50]).round(1).tolist()
    return {
        "kind": kind,
        "pasted": len(mine),
        "stale_hits": sum(hit for _, hit in mine),
        "least_contrast": least,
        "median_contrast": median,
        "least_seen": round(min(each.seen for each, _ in mine), 1),
    }


def _learn(near: Near, scene: Picture) -> None:
    sight = near.see(cells_of(scene, grid_of(scene.width, scene.height)), [_whole(scene)], 0.0)
    if sight is not None and sight.known is None:
        near.learn(sight, [empty()])


def _is_known(near: Near, shown: Picture) -> bool:
    near.worth = Worth()  # it may not switch itself off here
    sight = near.see(cells_of(shown, grid_of(shown.width, shown.height)), [_whole(shown)], 0.0)
    return sight is not None and sight.known is not None


def _whole(scene: Picture) -> crops.Look:
    return crops.whole(scene.width, scene.height, LONG_SIDE)


def _place(scene: Picture, width: int, height: int, rng: np.random.Generator) -> tuple[int, int]:
    """Left and top, both even."""
    left = int(rng.integers(0, scene.width - width + 1)) // 2 * 2
    return left, int(rng.integers(0, scene.height - height + 1)) // 2 * 2


def _resized(plane: ByteArray, width: int, height: int) -> npt.NDArray[np.uint8]:
    smaller = cv2.resize(plane, (width, height), interpolation=cv2.INTER_AREA)
    return np.asarray(smaller, np.uint8)


def _like(scene: Picture, y: ByteArray, u: ByteArray, v: ByteArray) -> Picture:
    return Picture(y, u, v, scene.matrix, scene.full_range)
