"""What footage says about thresholds of doubt: which are shown to be good. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.calibration import binomial_p, fixed_sequence, least_alpha, more_frames
from pipeline.promise import Promise


@dataclass(frozen=True, slots=True)
class Tally:
    """One threshold on footage. wrong: draws of a wrong frame; asked: of all frames."""

    least: float
    wrong: int = 0
    asked: int = 0

    def after(self, asked: bool, wrong: bool | None, draws: int) -> Tally:
        """With one more frame, drawn so many times; wrong: None where that was never."""
        return Tally(self.least, self.wrong + draws * bool(wrong), self.asked + asked)


@dataclass(frozen=True, slots=True)
class Setting:
    """A threshold judged. risk: share of drawn frames that were wrong, 0..1; asked: of all frames;
    oracle: the share that would do, for who knew where the light path is wrong.
    """

    least: float
    asked: float
    wrong: int
    risk: float
    oracle: float
    p_value: float
    certified: bool


@dataclass(frozen=True, slots=True)
class Judgement:
    """All thresholds, the safest first.

    drawn     frames that were held against the heavy pass, of `frames`
    best      the cheapest that is certified, None: not even asking always is
    shown     the least alpha that these frames show of asking always
    lacking   how many more frames certify the next one, if they are like these; None: none would
    """

    settings: tuple[Setting, ...]
    frames: int
    drawn: int
    best: Setting | None
    shown: float
    lacking: int | None


def judged(tallies: Sequence[Tally], frames: int, drawn: int, promise: Promise) -> Judgement:
    """Learn then Test by fixed sequence; the last tally is of asking never. drawn >= 1."""
    wrong = np.array([tally.wrong for tally in tallies])
    p_values = binomial_p(wrong, drawn, promise.alpha)
    accepted = fixed_sequence(p_values, promise.delta)
    unasked = tallies[-1].wrong / drawn
    settings = tuple(
        Setting(
            tally.least,
            tally.asked / frames,
            tally.wrong,
            tally.wrong / drawn,
            max(0.0, unasked - tally.wrong / drawn),
            float(p),
            row < accepted,
        )
        for row, (tally, p) in enumerate(zip(tallies, p_values, strict=True))
    )
    following = settings[min(accepted, len(settings) - 1)]
    return Judgement(
        settings,
        frames,
        drawn,
        settings[accepted - 1] if accepted else None,
        least_alpha(settings[0].wrong, drawn, promise.delta),
        more_frames(following.wrong, drawn, promise.alpha, promise.delta),
    )


def verdict(judgement: Judgement, promise: Promise) -> str:
    """In words, for the end of the table."""
    best, promised = judgement.best, f"{promise.alpha:.2%} at {promise.confidence:.1%} confidence"
    if best is None:
        return (
            f"{judgement.drawn} frames are too few for {promised}: even without one wrong frame "
            f"they show {judgement.shown:.2%}. {judgement.lacking or 0} more frames would do"
        )
    more = ""
    if not judgement.settings[-1].certified and judgement.lacking:
        more = f"; with {judgement.lacking} more frames like these the next one is certified, too"
    return (
        f"{promised}: [escalate] doubt = {best.least:g} asks about {best.asked:.1%} of frames "
        f"(an oracle: {best.oracle:.1%}){more}. A forecast for footage like this, no promise"
    )
