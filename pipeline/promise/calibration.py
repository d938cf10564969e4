"""Choose the threshold of doubt on footage by Learn then Test, and the budget that it needs.

The settings are on a path, fixed on other footage, from the one with the fewest errors to the
cheapest. The exact binomial test is applied to each, with the null hypothesis that more than alpha
of the frames are wrong. Walking along the path and stopping at the first setting that the test does
not reject bounds the probability of accepting any bad setting by delta, without dividing delta
among the settings (Angelopoulos et al., "Learn then Test", 2021). The result is a forecast for
similar footage, not a promise.

Frames must be drawn independently, with replacement, and keep the drawn order. Pure functions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import scipy

from framegate.pipeline.promise.period import Promise

Float64Array = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]


def binomial_p(errors: Int64Array, frames: int, alpha: float) -> Float64Array:
    """Return the p-values (J,) of J settings with `errors` (J,) wrong frames of `frames`."""
    p_values: Float64Array = scipy.special.bdtr(errors, frames, alpha)
    return p_values


def fixed_sequence(p_values: Float64Array, delta: float) -> int:
    """Return the number of accepted settings from the first (safest) on; 0: always escalate."""
    is_rejected = p_values <= delta
    if is_rejected.all():
        return len(is_rejected)
    return int(np.argmin(is_rejected))


def least_alpha(errors: int, frames: int, delta: float) -> float:
    """Return the smallest alpha that these frames certify: its binomial p-value is delta."""
    if errors >= frames:
        return 1.0
    return float(scipy.special.bdtri(errors, frames, delta))


def more_frames(errors: int, frames: int, alpha: float, delta: float) -> int | None:
    """Return how many more frames certify alpha, if the next frames are wrong as often as these.

    0: these frames do; None: they are wrong too often for any number.
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
    # Bisection: `enough` suffices, `short` does not.
    while enough - short > 1:
        middle = (short + enough) // 2
        if suffice(middle):
            enough = middle
        else:
            short = middle
    return enough


# -- The smallest budget that allows all of a list of asks at known times.


_STEPS: Final = 100  # of a rate of 1 ask per second
_MAX_PER_S: Final = 10_000  # the maximum of the configuration


@dataclass(frozen=True, slots=True)
class Raise:
    """A key of [escalate] whose value is too low. Values are asks per second of media time."""

    key: str
    has: float
    needs: float


def raises(
    times: Sequence[Float64Array], per_s: float, burst: float, all_per_s: float
) -> tuple[Raise, ...]:
    """Return the keys of [escalate] to raise so that no ask exceeds the budget.

    `all_per_s` is a limit for cameras. It is computed as if all sources were cameras of one worker
    and began at the same time.

    times  times of the asks of each source, in seconds of its own clock, ascending
    """
    together = np.sort(np.concatenate([*times, np.empty(0)]))
    needs_per_s = max((least_per_s(each, burst) for each in times), default=0.0)
    needs_all_per_s = least_per_s(together, None)
    too_low = []
    if needs_per_s > per_s:
        too_low.append(Raise("per_s", per_s, needs_per_s))
    if needs_all_per_s > all_per_s:
        too_low.append(Raise("all_per_s", all_per_s, needs_all_per_s))
    return tuple(too_low)


def least_per_s(times: Float64Array, burst: float | None) -> float:
    """Return the lowest rate, in steps of 0.01, with which a token bucket allows all asks.

    If no rate up to the maximum of the configuration is enough, the result is that maximum, 10000.

    burst  size of the bucket, >= 1; None: the tokens of one second, at least 1
    """

    def suffices(rate: float) -> bool:
        size = burst
        if size is None:
            size = max(1.0, rate)
        return _suffices(times, rate, size)

    # Bisection: `high` suffices or is the maximum, `low` does not suffice.
    low = -1
    high = _MAX_PER_S * _STEPS
    while high - low > 1:
        middle = (low + high) // 2
        if suffices(middle / _STEPS):
            high = middle
        else:
            low = middle
    return high / _STEPS


def _suffices(times: Float64Array, rate: float, burst: float) -> bool:
    """Return whether a token bucket that begins full never runs out.

    For any consecutive asks, their number less the tokens that were added since the first of them
    is at most the burst.
    """
    if not len(times):
        return True
    spent = np.arange(len(times)) - rate * times
    max_spent = float((spent - np.minimum.accumulate(spent)).max())
    return max_spent <= burst - 1 + 1e-6


# -- The certified thresholds of doubt on footage.


_FAR: Final = 2  # draws for each distinct frame, above which the verdict mentions it


@dataclass(frozen=True, slots=True)
class Tally:
    """The counts of a threshold on footage.

    least  the threshold of doubt
    wrong  draws of a wrong frame
    asked  frames that it asks about
    """

    least: float
    wrong: int = 0
    asked: int = 0

    def after(self, asked: bool, wrong: bool | None, draws: int) -> Tally:
        """Return the tally after another frame, drawn `draws` times. wrong: None if never drawn"""
        return Tally(self.least, self.wrong + draws * bool(wrong), self.asked + asked)


@dataclass(frozen=True, slots=True)
class FootageTallies:
    """The tallies of a path of thresholds, from the safest to the one that never asks.

    frames     frames that were compared with the heavy pass
    draws      draws of these frames, with replacement
    distinct   frames that were drawn at least once
    raises     for each threshold, the keys of [escalate] to raise
    left       frames that remained when the replay was stopped
    available  frames of the files; 0: as many as `frames`
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
    """A threshold with its test. Shares are 0..1.

    asked   share of all frames that it asks about
    risk    share of the draws that are wrong
    oracle  share of asks of an oracle, which asks only about frames that the light path gets wrong
    raises  keys of [escalate] to raise
    """

    least: float
    asked: float
    wrong: int
    risk: float
    oracle: float
    p_value: float
    certified: bool
    raises: tuple[Raise, ...]


@dataclass(frozen=True, slots=True)
class Judgement:
    """All thresholds with their tests, the safest first.

    frames    frames of the files
    draws     draws of frames that were compared with the heavy pass
    distinct  different frames among them
    best      cheapest certified setting; None: not even asking always is certified
    shown     smallest alpha that these draws certify for asking always
    lacking   further draws, if like these, that certify the next setting; None: no number does
    worth     smallest alpha that one draw of each distinct frame certifies for the best setting
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
    """Test the thresholds of a path as a fixed sequence. There must be at least one draw."""
    tallies = footage.tallies
    drawn = footage.draws
    wrong = np.array([tally.wrong for tally in tallies])
    p_values = binomial_p(wrong, drawn, promise.alpha)
    accepted = fixed_sequence(p_values, promise.delta)
    unasked = tallies[-1].wrong / drawn
    settings: list[Setting] = []
    for row, (tally, p) in enumerate(zip(tallies, p_values, strict=True)):
        risk = tally.wrong / drawn
        setting = Setting(
            least=tally.least,
            asked=tally.asked / footage.frames,
            wrong=tally.wrong,
            risk=risk,
            oracle=max(0.0, unasked - risk),
            p_value=float(p),
            certified=row < accepted,
            raises=footage.raises[row],
        )
        settings.append(setting)
    following = settings[min(accepted, len(settings) - 1)]
    best = None
    errors = 0
    if accepted:
        best = settings[accepted - 1]
        errors = math.ceil(best.risk * footage.distinct)
    return Judgement(
        tuple(settings),
        footage.available or footage.frames,
        drawn,
        footage.distinct,
        best,
        least_alpha(settings[0].wrong, drawn, promise.delta),
        more_frames(following.wrong, drawn, promise.alpha, promise.delta),
        least_alpha(errors, footage.distinct, promise.delta),
    )


def verdict(judgement: Judgement, promise: Promise) -> str:
    """Return the judgement in words, for the end of the table."""
    best = judgement.best
    promised = f"{promise.alpha:.2%} at {promise.confidence:.1%} confidence"
    enough = judgement.draws + (judgement.lacking or 0)
    more = ""
    if judgement.frames < enough:
        more = f", and footage of more than {judgement.frames} frames"
    if best is None:
        return (
            f"{judgement.draws} draws are too few for {promised}: even without one wrong frame "
            f"they show {judgement.shown:.2%}. --frames {enough}{more} would do"
        )
    lines = [
        f"{promised}: [escalate] doubt = {min(1.0, best.least):g} asks about {best.asked:.1%} of "
        f"frames "
        f"(an oracle: {best.oracle:.1%}). It is a forecast for similar footage, not a promise",
        *_budget(best),
    ]
    if not judgement.settings[-1].certified and judgement.lacking:
        lines.append(
            f"With --frames {enough}{more}, the next setting is certified, too, if the added "
            "frames are alike"
        )
    if judgement.draws > _FAR * judgement.distinct:
        lines.append(
            f"{judgement.draws} draws are of {judgement.distinct} different frames: for other "
            f"footage they are worth {judgement.distinct} draws, which show {judgement.worth:.2%}"
        )
    return "\n".join(lines)


def _budget(best: Setting) -> list[str]:
    """Return the keys to raise: the forecast is for a pipeline with a budget for all its asks."""
    if not best.raises:
        return []
    keys = ", ".join(f"{each.key} from {each.has:g} to {each.needs:g}" for each in best.raises)
    cameras = ""
    if "all" in keys:
        cameras = " (cameras: as if all sources were, of one worker)"
    return [f"It needs a budget for all these asks: raise [escalate] {keys}{cameras}"]
