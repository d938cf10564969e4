"""Which threshold of doubt may be used: Learn then Test on footage; the budget it needs.

Settings stand on one path, fixed on other footage, from the one that errs least to the one that
costs least. Each is tested against the null hypothesis that more than alpha of frames are wrong
with it, by the exact binomial test. Walking along the path and stopping at the first that is not
rejected keeps the chance of accepting any bad one within delta, without dividing it (Angelopoulos
et al., "Learn then Test", 2021). What is accepted holds for this footage, and for what is like it:
a forecast, no promise.

Frames must be drawn independently of each other, with replacement, and stay in the drawn order.
Pure.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt
import scipy

from framegate.pipeline.promise.promise import Promise

Float64Array = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]


def binomial_p(errors: Int64Array, frames: int, alpha: float) -> Float64Array:
    """p-values (J,) of J settings of which `errors` (J,) of `frames` frames were wrong."""
    p_values: Float64Array = scipy.special.bdtr(errors, frames, alpha)
    return p_values


def fixed_sequence(p_values: Float64Array, delta: float) -> int:
    """How many settings are accepted, from the first (safest) on; 0: none, escalate everything."""
    rejected = p_values <= delta
    return len(rejected) if rejected.all() else int(np.argmin(rejected))


def least_alpha(errors: int, frames: int, delta: float) -> float:
    """What these frames could certify: the smallest alpha with a binomial p-value up to delta."""
    return 1.0 if errors >= frames else float(scipy.special.bdtri(errors, frames, delta))


def more_frames(errors: int, frames: int, alpha: float, delta: float) -> int | None:
    """How many more frames certify alpha, if the next ones are wrong as often as these.

    0 if these do; None if they are wrong too often for any number. By the binomial test.
    """
    if errors >= alpha * frames:
        return None

    def suffice(more: int) -> bool:
        every = frames + more
        return bool(scipy.special.bdtr(math.ceil(errors * every / frames), every, alpha) <= delta)

    enough = 0
    while not suffice(enough):
        enough = max(1, 2 * enough)
    short = enough // 2
    while enough - short > 1:
        middle = (short + enough) // 2
        short, enough = (short, middle) if suffice(middle) else (middle, enough)
    return enough


# -- The least budget of asks that never denies one, for asks at known times.


_FINE: Final = 100  # steps of a rate, a second


@dataclass(frozen=True, slots=True)
class Raise:
    """A key of [escalate] that has less, asks a second of media time, than is needed."""

    key: str
    has: float
    needs: float


def raises(
    times: Sequence[Float64Array], per_s: float, burst: float, all_per_s: float
) -> tuple[Raise, ...]:
    """What must be raised so that no ask is over budget, as [escalate] has it now.

    times  s, ascending: when each source would ask, by its own clock. all_per_s is of cameras: as
           if all sources were, of one worker, and began at once
    """
    together = np.sort(np.concatenate([*times, np.empty(0)]))
    needs = {
        "per_s": (per_s, max((least_per_s(one, burst) for one in times), default=0.0)),
        "all_per_s": (all_per_s, least_per_s(together, None)),
    }
    return tuple(Raise(key, has, least) for key, (has, least) in needs.items() if least > has)


def least_per_s(times: Float64Array, burst: float | None) -> float:
    """The least rate, in hundredths, with which a token bucket has one for each ask.

    burst  its size, >= 1; None: as large as a second's tokens, at least 1. Asks that come so
           close that no rate up to the highest key is enough: that one, 10000
    """
    return _least(lambda rate: _suffices(times, rate, max(1.0, rate) if burst is None else burst))


def _suffices(times: Float64Array, rate: float, burst: float) -> bool:
    """Of any asks in a row, no more than came back since the first, beyond the burst."""
    if not len(times):
        return True
    spent = np.arange(len(times)) - rate * times
    most = float((spent - np.minimum.accumulate(spent)).max())
    return most <= burst - 1 + 1e-6


def _least(enough: Callable[[float], bool]) -> float:
    short, least = -1, 10_000 * _FINE
    while least - short > 1:
        middle = (short + least) // 2
        short, least = (short, middle) if enough(middle / _FINE) else (middle, least)
    return least / _FINE


# -- What footage says about thresholds of doubt: which are shown to be good.


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
class FootageTallies:
    """What footage said of the thresholds of a path, the safest first, the last of asking never.

    frames    that were held against the heavy pass
    draws     of one of them, with replacement; distinct  frames that were drawn at least once
    raises    for each threshold, what [escalate] must allow for no ask to be over budget
    left      frames that were to follow when it was stopped
    available frames that the files have; 0: no more than were held against the heavy pass
    """

    tallies: tuple[Tally, ...]
    frames: int
    draws: int
    distinct: int
    raises: tuple[tuple[Raise, ...], ...]
    left: int = 0
    available: int = 0


@dataclass(frozen=True, slots=True)
class Setting:
    """A threshold judged. risk: share of drawn frames that were wrong, 0..1; asked: of all frames;
    oracle: the share that would do, for who knew where the light path is wrong; raises: as
    FootageTallies.
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

    frames    that the files have
    draws     of frames held against the heavy pass; distinct  frames among them
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


def judged(footage: FootageTallies, promise: Promise) -> Judgement:
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
        footage.available or footage.frames,
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
    few = judgement.frames < enough
    more = f", and footage of more than {judgement.frames} frames" if few else ""
    if best is None:
        return (
            f"{judgement.draws} draws are too few for {promised}: even without one wrong frame "
            f"they show {judgement.shown:.2%}. --frames {enough}{more} would do"
        )
    lines = [
        f"{promised}: [escalate] doubt = {min(1.0, best.least):g} asks about {best.asked:.1%} of "
        f"frames "
        f"(an oracle: {best.oracle:.1%}). A forecast for footage like this, no promise",
        *_budget(best),
    ]
    if not judgement.settings[-1].certified and judgement.lacking:
        lines.append(
            f"With --frames {enough}{more} the next one is certified, too, if they are alike"
        )
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
