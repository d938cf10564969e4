"""The state of a camera's connection, as the next commit stores it for users."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping

import msgspec

from framegate.pipeline.contracts.records import VERSION, Connection, ConnectionState
from framegate.pipeline.ingest.recorded_stream import RecordedStreamState
from framegate.pipeline.system.clocks import camera_ahead_s, clock_in_words

log = logging.getLogger(__name__)

WARN_AGAIN_S = 60.0  # the least time between two warnings about a camera's clock


class ConnectionReport:
    """The last state of a connection, with its changes in the log. One thread.

    unsent  the state that no commit has stored, None without news
    """

    def __init__(self, source: str) -> None:
        self.unsent: Connection | None = None
        self._source = source
        self._last: Connection | None = None
        self._url_fault: str | None = None  # as in Connection
        self._clock_off_s = 0.0  # of the camera's clock, while it is not used
        self._warned_mono = -math.inf  # the last warning about that clock

    @property
    def state(self) -> ConnectionState | None:
        """Return the state that was reported last, None before the first report."""
        return None if self._last is None else self._last.state

    @property
    def fault(self) -> str | None:
        """Return why there is no connection, None while there is one or before the first report."""
        return None if self._last is None else self._last.fault

    def report(self, state: ConnectionState, wall: float, fault: str | None = None) -> None:
        """Add the connection's state to the next commit; `since` changes only with the state."""
        before = self._last
        if before is None or (state, fault) != (before.state, before.fault):
            if fault is None and before is None and state == "lost":  # by the run or worker before
                log.info("source %s: connecting again", self._source)
            elif fault is None:
                log.info("source %s: %s", self._source, state)
            else:
                log.warning("source %s: %s: %s", self._source, state, fault)
        since = wall
        if before is not None and before.state == state:
            since = before.since
        connection = Connection(VERSION, state, since, fault, self._clock_off_s, self._url_fault)
        self._last = connection
        self.unsent = connection

    def see_clock(self, camera_s: float, is_used: bool, host_s: float, now: float) -> None:
        """Record in the next commit whether the camera's clock is used, if that changed.

        The warning is limited to one a minute: a clock that steps with each frame must not fill the
        log.
        """
        was_used = self._clock_off_s == 0.0
        if is_used == was_used or self._last is None:
            return
        if is_used:
            self._clock_off_s = 0.0
        elif now - self._warned_mono < WARN_AGAIN_S:
            return
        else:
            self._warned_mono = now
            self._clock_off_s = camera_ahead_s(camera_s, host_s)
        self._last = msgspec.structs.replace(self._last, clock_off_s=self._clock_off_s)
        self.unsent = self._last
        if is_used:
            log.info("source %s: its clock is right again", self._source)
        else:
            words = clock_in_words(self._clock_off_s, host_s)
            log.warning("source %s: %s", self._source, words)

    def see_recorded_stream(self, event: RecordedStreamState, wall: float) -> Mapping[str, int]:
        """Note in the next commit whether the stream of `url` is here, while that of `look_at`
        gives frames. Return the counters that grew.
        """
        before, self._url_fault = self._url_fault, event.fault
        grown = {}
        if event.fault is None:
            grown = {"url_connects": 1}
        elif before is None:
            grown = {"url_lost": 1}
        if event.fault == before:
            return grown
        if event.fault is None:
            log.info("source %s: the stream of url is here", self._source)
        else:
            log.warning("source %s: url: %s", self._source, event.fault)
        if self._last is not None:
            self.report(self._last.state, wall, self._last.fault)
        return grown
