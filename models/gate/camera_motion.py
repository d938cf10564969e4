"""Detect from the changed tiles whether the camera moves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from framegate.models.boxes import BoolArray, FloatArray
from framegate.models.gate.cells import contrasts
from framegate.models.gate.settings import GateSettings
from framegate.models.picture import ByteArray

_TEXTURED: Final = 2.0  # factor of a tile's bound: with more contrast, motion changes the tile
_ENOUGH: Final = 0.12  # share of all tiles below which a kind of tile is too rare to decide
_MAX_LOOKS: Final = 250  # counters of looks saturate here


@dataclass(frozen=True, slots=True)
class CameraMotion:
    """The motion of a camera after a look.

    moving    the camera or its focus moves
    restless  looks in a row in which most of the textured tiles had changed, saturating
    restful   looks in a row in which few of them had changed, saturating
    noisy     the flat tiles had changed as well, so the whole picture is noisy
    """

    moving: bool = False
    restless: int = 0
    restful: int = 0
    noisy: bool = False


STILL: Final = CameraMotion()


def watch(
    motion: CameraMotion,
    changed: BoolArray | None,
    reference: ByteArray,
    now: ByteArray,
    bound: FloatArray,
    watched: BoolArray | None,
    settings: GateSettings,
) -> CameraMotion:
    """Return the motion after one more look.

    changed    bool (tile_rows, tile_columns)  tiles over their threshold; None: none
    reference  uint8 (rows, columns)  reference of the cells of Y
    now        uint8 (rows, columns)  cells of Y
    bound      float32 (tile_rows, tile_columns)  stated bound of each tile for Y, in levels
    watched    bool (tile_rows, tile_columns)  tiles that count; None: all

    Flat areas such as sky and road hide motion, so only tiles that are textured before and after
    count. A large object in front of a still camera leaves most of these unchanged, and where it
    passes over a flat area, its texture appears or disappears. If few tiles are of a kind, all
    tiles count.
    """
    moved_share = 0.0
    noise_share = 0.0
    if changed is not None and np.count_nonzero(changed) > _few(changed, watched, settings):
        contrast = np.minimum(contrasts(reference), contrasts(now))
        textured = contrast >= _TEXTURED * bound
        if watched is None:
            watched = np.ones_like(changed)
        moved_share = _share(changed, watched & textured, watched)
        noise_share = _share(changed, watched & ~textured, watched)
    restless = _counted(motion.restless, moved_share >= settings.moving_share)
    restful = _counted(motion.restful, moved_share <= settings.still_share)
    if motion.moving:
        is_moving = restful < settings.still_looks
    else:
        is_moving = restless >= settings.moving_looks
    return CameraMotion(is_moving, restless, restful, noise_share >= settings.noisy_share)


def _few(changed: BoolArray, watched: BoolArray | None, settings: GateSettings) -> float:
    """Return a number of changed tiles with which no share can reach any limit."""
    counted = changed.size
    if watched is not None:
        counted = int(watched.sum())
    kind = min(_ENOUGH * changed.size, counted)
    return kind * min(settings.still_share, settings.moving_share, settings.noisy_share)


def _share(changed: BoolArray, kind: BoolArray, every: BoolArray) -> float:
    """Return the changed share of the tiles of a kind, or of all tiles if the kind is rare."""
    if np.count_nonzero(kind) < _ENOUGH * kind.size:
        kind = every
    count = int(np.count_nonzero(kind))
    return int(np.count_nonzero(changed & kind)) / max(1, count)


def _counted(looks: int, is_on: bool) -> int:
    if not is_on:
        return 0
    return min(looks + 1, _MAX_LOOKS)
