"""The default boxes of an SSD: which boxes its location deltas start from."""

import itertools
import json
import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from framegate.models.boxes import FloatArray
from framegate.models.errors import ArrayMismatch
from framegate.models.formats.candidates import Options, Size

KEYS = ("aspect_ratios", "scales", "min_ratio", "max_ratio", "steps", "grids", "clip")


def default_boxes(options: Options, size: Size) -> FloatArray:
    """Centre, width, height in 0..1 of each, (N, 4) read-only; row by row, coarser grids later.

    aspect_ratios  of each grid, beside 1: [[2], [2, 3], ...]; each also turned
    scales         of each grid and one more, in shares of the input; or min_ratio and max_ratio,
                   between which they are spread evenly
    steps          pixels from box to box of each grid; or grids: rows and columns of each
    clip           1: sides are at most the input's (default)
    """
    told = {key: options[key] for key in KEYS if key in options}
    return _made(json.dumps(told), size)


@lru_cache(16)
def _made(told: str, size: Size) -> FloatArray:
    options: dict[str, Any] = json.loads(told)
    ratios = options.get("aspect_ratios")
    if not ratios:
        raise ArrayMismatch("aspect_ratios", "a list for each grid", repr(ratios))
    scales, grids = _scales(options, len(ratios)), _grids(options, size)
    if len(scales) != len(ratios) + 1 or len(grids) != len(ratios):
        wanted = f"{len(ratios) + 1} scales and {len(ratios)} grids"
        raise ArrayMismatch("default boxes", wanted, f"{len(scales)} and {len(grids)}")
    parts = []
    for own, pair, (rows, columns, down, across) in zip(
        ratios, itertools.pairwise(scales), grids, strict=True
    ):
        sides = np.array(_sides(own, *pair), np.float32)
        if options.get("clip", 1):
            sides = sides.clip(0, 1)
        y, x = np.mgrid[:rows, :columns].astype(np.float32) + np.float32(0.5)
        centres = np.stack([x.ravel() / across, y.ravel() / down], axis=1)
        parts.append(
            np.concatenate(
                [centres.repeat(len(sides), axis=0), np.tile(sides, (len(centres), 1))], 1
            )
        )
    out = np.concatenate(parts).astype(np.float32)
    out.flags.writeable = False
    return out


def _sides(ratios: Sequence[float], scale: float, following: float) -> list[tuple[float, float]]:
    """Width and height of each box at one place."""
    between = math.sqrt(scale * following)
    sides = [(scale, scale), (between, between)]
    for ratio in ratios:
        root = math.sqrt(ratio)
        sides += [(scale * root, scale / root), (scale / root, scale * root)]
    return sides


def _scales(options: dict[str, Any], n_grids: int) -> list[float]:
    if options.get("scales"):
        return list(options["scales"])
    least, most = options.get("min_ratio", 0.15), options.get("max_ratio", 0.9)
    if n_grids == 1:
        return [least, most]
    return [*(least + (most - least) * k / (n_grids - 1) for k in range(n_grids)), 1.0]


def _grids(options: dict[str, Any], size: Size) -> list[tuple[int, int, float, float]]:
    """Of each grid: rows, columns, and how many rows and columns fill the input."""
    width, height = size
    if steps := options.get("steps"):
        sides = options.get("grids") or [[-(-height // s), -(-width // s)] for s in steps]
        return [(r, c, height / s, width / s) for (r, c), s in zip(sides, steps, strict=True)]
    return [(rows, columns, rows, columns) for rows, columns in options.get("grids", ())]
