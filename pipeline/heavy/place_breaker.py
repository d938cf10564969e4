"""The breaker of a place that is asked: told of what happens, it tells when it opens and closes."""

from __future__ import annotations

import logging
import random

from framegate.pipeline.heavy.questions import PlaceFailed
from framegate.pipeline.retry import Breaker, BreakerState

log = logging.getLogger(__name__)


class PlaceBreaker:
    """Of one place. Not thread-safe."""

    def __init__(self) -> None:
        self._breaker = Breaker()
        self._lost_mono: float | None = None  # since when the place has failed, None: it has not

    @property
    def state(self) -> BreakerState:
        """See Breaker."""
        return self._breaker.state

    @property
    def until_mono(self) -> float:
        """When a probe may go out, once it is open."""
        return self._breaker.until_s

    def lets_out(self, now: float) -> bool:
        """Whether a question may go out now."""
        return self._breaker.lets_out(now)

    def sent(self) -> None:
        """Questions go out."""
        self._breaker = self._breaker.sent()

    def answered(self) -> None:
        """The place gave an answer."""
        if self._breaker.state != "closed":
            log.warning("who is asked in doubt answers again")
        self._breaker, self._lost_mono = self._breaker.answered(), None

    def failed(self, now: float, why: Exception) -> None:
        """It gave none: said once, when it opens; each try would be said for ever."""
        before = self._breaker.state
        self._breaker = self._breaker.failed(now, random.random())
        self._lost_mono = now if self._lost_mono is None else self._lost_mono
        is_foreseen = isinstance(why, PlaceFailed)
        said = str(why) if is_foreseen else f"{type(why).__name__}: {why}"
        log.debug("no answer: %s", said)
        if before == "closed" and self._breaker.state != "closed":
            level = logging.WARNING if is_foreseen else logging.ERROR
            log.log(level, "no answers from who is asked in doubt, tried again later: %s", said)

    def away_s(self, asked_mono: float, now: float) -> float:
        """For how long a question has been in vain: since it was put, or the place was lost."""
        lost_mono = asked_mono if self._lost_mono is None else self._lost_mono
        return now - min(asked_mono, lost_mono)
