"""Frames in hand that cannot be done yet: their pixels, or answers about them, are on their way."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

from framegate.pipeline.contracts.stage import AskPort
from framegate.pipeline.engine.hosted_stage import HostedStage, PendingCommit

REST_S = 0.05  # between two looks for pixels
ASK_AGAIN_S = 5.0  # whoever waits for an answer shows at least so often that it is alive


class HeldBack:
    """Which stages of which sources wait, and until when (monotonic seconds). One thread."""

    def __init__(self, hosted: Sequence[HostedStage]) -> None:
        self._asks: dict[int, AskPort] = {
            stage.stage.asks.fileno(): stage.stage.asks
            for stage in hosted
            if stage.stage.asks is not None
        }
        self._lacking: dict[tuple[str, str], float] = {}  # pixels, by (source, stage)
        self._awaiting: dict[tuple[str, str], float] = {}  # answers

    def __bool__(self) -> bool:
        return bool(self._lacking or self._awaiting)

    def __contains__(self, at: tuple[str, str]) -> bool:
        return at in self._lacking or at in self._awaiting

    def note(self, source: str, stage: str, pending: PendingCommit) -> None:
        """Note what came of trying a stage on a source."""
        at = source, stage
        self._lacking.pop(at, None)
        self._awaiting.pop(at, None)
        now = time.monotonic()
        if pending.awaits:
            self._awaiting[at] = now + min(ASK_AGAIN_S, self._question_ends_in())
        elif pending.lacks_pixels:
            self._lacking[at] = now + REST_S

    def more_came(self, source: str, stage: str) -> None:
        """Have a stage that awaits an answer try the source again, to ask about what came, too."""
        if (at := (source, stage)) in self._awaiting:
            self._awaiting[at] = 0.0

    def forget(self, source: str, stage: str) -> None:
        """Wait for nothing of a source any more."""
        self._lacking.pop((source, stage), None)
        self._awaiting.pop((source, stage), None)

    def resting(self, stage: str) -> list[str]:
        """Sources that a stage need not try now: others go first."""
        now = time.monotonic()
        held = [*self._lacking.items(), *self._awaiting.items()]
        return [source for (source, name), until in held if name == stage and now < until]

    def lacks_pixels(self) -> bool:
        """Return whether a frame waits for its pixels to be decoded again."""
        return bool(self._lacking)

    def answers(self) -> list[int]:
        """Descriptors that are readable once answers came."""
        return list(self._asks)

    def hear(self, ready: Sequence[int]) -> bool:
        """Take the answers that these descriptors tell of; return whether anything is to be tried
        again by them, or by the time.
        """
        for descriptor in self._asks.keys() & set(ready):
            self._asks[descriptor].hear()
            self._awaiting = dict.fromkeys(self._awaiting, 0.0)
        now = time.monotonic()
        return any(until <= now for until in self._awaiting.values())

    def retry_in(self) -> float | None:
        """Seconds until something that waits for an answer is to be tried again."""
        first = min(self._awaiting.values(), default=None)
        return None if first is None else max(0.0, first - time.monotonic())

    def _question_ends_in(self) -> float:
        """Seconds until the first question of any stage gets no answer any more."""
        dues = [asks.due_in() for asks in self._asks.values()]
        return min((due for due in dues if due is not None), default=math.inf)
