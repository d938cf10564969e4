"""Parameters of the change gate."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

MAX_ANCHOR: Final = 7  # levels; a stored state has four bits for the offset of a cell


@dataclass(frozen=True, slots=True)
class GateSettings:
    """Parameters of the change gate; the defaults were chosen by measurement on three clips.

    tau_first         first threshold, in levels of a cell mean
    tau_least         lowest and
    tau_most          highest threshold that can be learned; if all three are 0, every tile is hot
                      on every frame, as without a gate
    colour            factor of the first two for Cb and Cr, which mostly have less noise
    anchor            levels by which noise and key frames may move a reference in total, 0..7
    at_once           factor of the threshold: a larger change is hot at its first look
    calm              factor of the threshold: a smaller change is forgotten
    false_triggers    budget: false triggers per frame of the whole picture
    eta               a false trigger multiplies the threshold of its tile by exp(eta)
    floor_eta         and the threshold of the whole picture by exp(floor_eta)
    exposure_shift    in levels; a larger shift of the exposure causes a whole look
    exposure_gain     relative; a larger change of contrast causes a whole look
    moving_share      share of changed textured tiles from which the camera counts as moving
    still_share       share up to which it counts as still
    moving_looks      looks in a row before a still camera counts as moving
    still_looks       looks in a row before a moving camera counts as still
    noisy_share       share of changed flat tiles from which the whole picture counts as noisy
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
            values = f"{self.tau_least}, {self.tau_first}, {self.tau_most}"
            raise ValueError(
                f"tau_least, tau_first and tau_most must be at least 0 and ascend, got {values}"
            )
        if not 0 <= self.anchor <= MAX_ANCHOR:
            raise ValueError(f"anchor must be 0 to {MAX_ANCHOR}, got {self.anchor}")


DEFAULT: Final = GateSettings()


def settings_of(least: float | None, most: float | None) -> GateSettings:
    """Return the settings with this lowest and highest threshold, in levels; None: the default."""
    if least is None:
        least = DEFAULT.tau_least
    if most is None:
        most = DEFAULT.tau_most
    first = min(max(DEFAULT.tau_first, least), most)
    return replace(DEFAULT, tau_first=first, tau_least=least, tau_most=most)
