"""The numbers of the change gate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from framegate.models.boxes import DoubleArray

MOST_ANCHOR: Final = 7  # levels of reach; a state keeps what was moved in four bits


@dataclass(frozen=True, slots=True)
class GateSettings:
    """Defaults were chosen by measurement on the three CC BY clips.

    tau_first, tau_least, tau_most  stated bound at first, and where learning stops: levels of a
                      cell mean; all 0: every tile is hot on every frame, as if there were no gate
    colour            for Cb and Cr the first two times this: their noise is mostly lower
    anchor            levels by which noise and key frames may move a reference in total, 0..7
    at_once           times the threshold: such a change is hot at its first look
    calm              times the threshold: below it a change is forgotten
    false_triggers    of the whole picture on each frame, which the thresholds settle at
    eta               how much a trigger that was found empty raises its tile's threshold, as the
    floor_eta         exponent of a factor, and how much that of the picture
    exposure_shift    levels, and
    exposure_gain     parts: beyond one of them an exposure change asks for a whole pass
    moving_share      share of textured tiles that changed, from which the camera counts as moving,
    still_share       and up to which it counts as still again,
    moving_looks      after so many looks in a row, one way
    still_looks       and the other
    noisy_share       share of flat tiles that changed, from which noise is everywhere
    """

    tau_first: float = 14.0
    tau_least: float = 10.0
    tau_most: float = 24.0
    colour: float = 0.75
    anchor: int = 2
    at_once: float = 2.0
    calm: float = 0.6
    false_triggers: float = 0.02
    eta: float = 0.35
    floor_eta: float = 0.1
    exposure_shift: float = 8.0
    exposure_gain: float = 0.05
    moving_share: float = 0.6
    still_share: float = 0.3
    moving_looks: int = 3
    still_looks: int = 5
    noisy_share: float = 0.4

    def __post_init__(self) -> None:
        if not 0 <= self.tau_least <= self.tau_first <= self.tau_most:
            found = f"{self.tau_least}, {self.tau_first}, {self.tau_most}"
            raise ValueError(f"tau_least, tau_first, tau_most: {found}; allowed: 0 or more, rising")
        if not 0 <= self.anchor <= MOST_ANCHOR:
            raise ValueError(f"anchor: {self.anchor}; allowed: 0 to {MOST_ANCHOR}")

    @property
    def limits(self) -> tuple[DoubleArray, DoubleArray]:
        """Least and most of what is learned, each float64 (2,): for luma, for colour."""
        return self.tau_least * np.array([1.0, self.colour]), np.full(2, self.tau_most)


DEFAULT: Final = GateSettings()
