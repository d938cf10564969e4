"""The frames that cannot be done now: they wait for their pixels or for answers of other models."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

from framegate.pipeline.contracts.stage import AskPort
from framegate.pipeline.engine.hosted_stage import HostedStage, PendingCommit

REST_S = 0.05  # between two looks for pixels
ASK_AGAIN_S = 5.0  # a stage that awaits an answer is run this often, which shows that it is alive


class HeldBack:
    """The (source, stage) pairs that wait, with the time of the next try. One thread.

    Times are monotonic seconds. A pair waits for pixels or for answers, never for both.
    """

    def __init__(self, hosted: Sequence[HostedStage]) -> None:
        self._asks: dict[int, AskPort] = {
            stage.stage.asks.fileno(): stage.stage.asks
            for stage in hosted
            if stage.stage.asks is not None
        }
        self._lacking: dict[tuple[str, str], float] = {}  # waits for pixels
        self._awaiting: dict[tuple[str, str], float] = {}  # waits for answers

    def __bool__(self) -> bool:
        return bool(self._lacking or self._awaiting)

    def __contains__(self, at: tuple[str, str]) -> bool:
        return at in self._lacking or at in self._awaiting

    def note(self, source: str, stage: str, pending: PendingCommit) -> None:
        """Note the outcome of a try."""
        at = (source, stage)
        self._lacking.pop(at, None)
        self._awaiting.pop(at, None)
        now = time.monotonic()
        if pending.awaits:
            self._awaiting[at] = now + min(ASK_AGAIN_S, self._question_ends_in())
        elif pending.lacks_pixels:
            self._lacking[at] = now + REST_S

    def retry_now(self, source: str, stage: str) -> None:
        """Try a source at once if it awaits an answer, so that the stage asks about new frames."""
        at = (source, stage)
        if at in self._awaiting:
            self._awaiting[at] = 0.0

    def forget(self, source: str, stage: str) -> None:
        """Wait for nothing of a source."""
        self._lacking.pop((source, stage), None)
        self._awaiting.pop((source, stage), None)

    def resting(self, stage: str) -> list[str]:
        """Return the sources that a stage need not try now."""
        now = time.monotonic()
        held = [*self._lacking.items(), *self._awaiting.items()]
        return [source for (source, name), until in held if name == stage and now < until]

    def lacks_pixels(self) -> bool:
        """Return whether a frame waits for its pixels to be decoded again."""
        return bool(self._lacking)

    def answers(self) -> list[int]:
        """Return the descriptors that are readable when answers have arrived."""
        return list(self._asks)

    def hear(self, ready: Sequence[int]) -> bool:
        """Take the answers on readable descriptors; return whether a stage has a frame to retry."""
        for descriptor in self._asks.keys() & set(ready):
            self._asks[descriptor].hear()
            self._awaiting = dict.fromkeys(self._awaiting, 0.0)
        now = time.monotonic()
        return any(until <= now for until in self._awaiting.values())

    def retry_in(self) -> float | None:
        """Return the seconds until the next try of a frame that awaits an answer; None: none."""
        if not self._awaiting:
            return None
        return max(0.0, min(self._awaiting.values()) - time.monotonic())

    def _question_ends_in(self) -> float:
        """Return the seconds until the first open question of any stage times out."""
        dues = [asks.due_in() for asks in self._asks.values()]
        return min((due for due in dues if due is not None), default=math.inf)
