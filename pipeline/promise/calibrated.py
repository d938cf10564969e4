"""What footage says about thresholds of doubt: which are shown to be good. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from framegate.pipeline.promise.calibration import (
    binomial_p,
    fixed_sequence,
    least_alpha,
    more_frames,
)
from framegate.pipeline.promise.least_budget import Raise
from framegate.pipeline.promise.promise import Promise

_FAR: Final = 2  # draws for each frame that was drawn, beyond which that is told


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
class Footage:
    """What footage said of the thresholds of a path, the safest first, the last of asking never.

    frames    that it has
    draws     of one of them, with replacement; distinct  frames that were drawn at least once
    raises    for each threshold, what [escalate] must allow for no ask to be over budget
    """

    tallies: tuple[Tally, ...]
    frames: int
    draws: int
    distinct: int
    raises: tuple[tuple[Raise, ...], ...]


@dataclass(frozen=True, slots=True)
class Setting:
    """A threshold judged. risk: share of drawn frames that were wrong, 0..1; asked: of all frames;
    oracle: the share that would do, for who knew where the light path is wrong; raises: as Footage.
    """

    least: float
    asked: float
    wrong: int
    risk: float
    oracle: float
    p_value: float
    certified: bool
    raises: tuple[Raise, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class Judgement:
    """All thresholds, the safest first.

    draws     of frames held against the heavy pass, of `frames`; distinct  frames among them
    best      the cheapest that is certified, None: not even asking always is
    shown     the least alpha that these draws show of asking always
    lacking   how many more draws certify the next one, if they are like these; None: none would
    worth     the least alpha that as many draws as distinct frames show of the best
    """

    settings: tuple[Setting, ...]
    frames: int
    draws: int
    distinct: int
    best: Setting | None
    shown: float
    lacking: int | None
    worth: float


def judged(footage: Footage, promise: Promise) -> Judgement:
    """Learn then Test by fixed sequence. draws >= 1."""
    tallies, drawn = footage.tallies, footage.draws
    wrong = np.array([tally.wrong for tally in tallies])
    p_values = binomial_p(wrong, drawn, promise.alpha)
    accepted = fixed_sequence(p_values, promise.delta)
    unasked = tallies[-1].wrong / drawn
    settings = tuple(
        Setting(
            tally.least,
            tally.asked / footage.frames,
            tally.wrong,
            tally.wrong / drawn,
            max(0.0, unasked - tally.wrong / drawn),
            float(p),
            row < accepted,
            footage.raises[row],
        )
        for row, (tally, p) in enumerate(zip(tallies, p_values, strict=True))
    )
    following = settings[min(accepted, len(settings) - 1)]
    best = settings[accepted - 1] if accepted else None
    errors = 0 if best is None else math.ceil(best.risk * footage.distinct)
    return Judgement(
        settings,
        footage.frames,
        drawn,
        footage.distinct,
        best,
        least_alpha(settings[0].wrong, drawn, promise.delta),
        more_frames(following.wrong, drawn, promise.alpha, promise.delta),
        least_alpha(errors, footage.distinct, promise.delta),
    )


def verdict(judgement: Judgement, promise: Promise) -> str:
    """In words, for the end of the table."""
    best, promised = judgement.best, f"{promise.alpha:.2%} at {promise.confidence:.1%} confidence"
    enough = judgement.draws + (judgement.lacking or 0)
    if best is None:
        few = judgement.frames < enough
        more = f", and footage of more than {judgement.frames} frames" if few else ""
        return (
            f"{judgement.draws} draws are too few for {promised}: even without one wrong frame "
            f"they show {judgement.shown:.2%}. --frames {enough}{more} would do"
        )
    lines = [
        f"{promised}: [escalate] doubt = {best.least:g} asks about {best.asked:.1%} of frames "
        f"(an oracle: {best.oracle:.1%}). A forecast for footage like this, no promise",
        *_budget(best),
    ]
    if not judgement.settings[-1].certified and judgement.lacking:
        lines.append(f"With --frames {enough} the next one is certified, too, if they are alike")
    if judgement.draws > _FAR * judgement.distinct:
        lines.append(
            f"{judgement.draws} draws are of {judgement.distinct} different frames: for other "
            f"footage they are worth {judgement.distinct} draws, which show {judgement.worth:.2%}"
        )
    return "\n".join(lines)


def _budget(best: Setting) -> list[str]:
    """What else it takes, as the forecast is of a pipeline that may ask whenever it is in doubt."""
    if not best.raises:
        return []
    keys = ", ".join(f"{one.key} from {one.has:g} to {one.needs:g}" for one in best.raises)
    cameras = " (cameras: as if all sources were, of one worker)" if "all" in keys else ""
    return [f"It needs a budget for all these asks: raise [escalate] {keys}{cameras}"]
