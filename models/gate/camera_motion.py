"""Whether a camera moves, by where its picture changes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from framegate.models.boxes import BoolArray, FloatArray
from framegate.models.gate.cells import contrasts
from framegate.models.gate.settings import GateSettings
from framegate.models.picture import ByteArray

_TEXTURED: Final = 2.0  # times a tile's bound: contrast from which on motion must show in it
_ENOUGH: Final = 0.12  # share of tiles that must be of a kind before their share says something
_MOST: Final = 250  # where counters of looks stop


@dataclass(frozen=True, slots=True)
class CameraMotion:
    """What is known of it after a look.

    moving    the camera moves, or its focus does
    restless  looks in a row in which most of the textured tiles had changed, saturating
    restful   looks in a row in which few of them had, saturating
    noisy     the flat tiles had changed as well, as by noise that is everywhere
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
    """Go on by one look.

    changed    bool (tile_rows, tile_columns)  tiles over their threshold; None: none is
    reference  uint8 (rows, columns)  cells of Y that they were compared with
    now        uint8 (rows, columns)  cells of Y
    bound      float32 (tile_rows, tile_columns)  stated bound of each tile for Y, in levels
    watched    bool (tile_rows, tile_columns)  tiles that count; None: all

    Sky and road hide motion, so the share of tiles counts that had texture and have it still: much
    that moves in front of a still camera leaves most of what is behind it as it was, and where it
    passes over something plain, texture comes and goes. Where few tiles are of a kind, all count.
    """
    moved = noise = 0.0
    if changed is not None and np.count_nonzero(changed) > _few(changed, watched, settings):
        contrast = np.minimum(contrasts(reference), contrasts(now))
        textured = contrast >= _TEXTURED * bound
        every = np.ones_like(changed) if watched is None else watched
        moved = _share(changed, every & textured, every)
        noise = _share(changed, every & ~textured, every)
    restless = _counted(motion.restless, moved >= settings.moving_share)
    restful = _counted(motion.restful, moved <= settings.still_share)
    limit = settings.still_looks if motion.moving else settings.moving_looks
    enough = (restful if motion.moving else restless) >= limit
    return CameraMotion(motion.moving != enough, restless, restful, noise >= settings.noisy_share)


def _few(changed: BoolArray, watched: BoolArray | None, settings: GateSettings) -> float:
    """Return of how many tiles no share of a kind could reach any limit."""
    kind = min(_ENOUGH * changed.size, changed.size if watched is None else int(watched.sum()))
    return kind * min(settings.still_share, settings.moving_share, settings.noisy_share)


def _share(changed: BoolArray, kind: BoolArray, every: BoolArray) -> float:
    """Return what part of the tiles of a kind changed; of all where there are few of the kind."""
    if np.count_nonzero(kind) < _ENOUGH * kind.size:
        kind = every
    count = int(np.count_nonzero(kind))
    return int(np.count_nonzero(changed & kind)) / max(1, count)


def _counted(looks: int, on: bool) -> int:
    return min(looks + 1, _MOST) if on else 0
