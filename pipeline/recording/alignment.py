"""Relate the time stamps of a camera's recorded stream to those of the stream that is decoded.

A camera gives each connection a clock of its own. Results have the time stamps of the decoded
stream, so a recording of the other stream must be found by these. Two estimates relate the clocks:

- RTCP sender reports state the capture time of both streams by one clock, the camera's. The
  difference of the time stamps of one moment is then exact.
- The arrival of packets. The least delay between time stamp and arrival over some time is nearly
  that of the network, and equal for both streams. Without reports this is used, and also where the
  reports contradict the arrivals: some cameras report another clock for each stream.
"""

from __future__ import annotations

import threading
from typing import Final, NamedTuple

from framegate.pipeline.system.clocks import camera_time

WINDOW_S: Final = 30.0  # over which the least delay is taken, at least
BREAK_S: Final = 10.0  # a greater change of the delay means that the clock was set
MAX_CONTRADICTION_S: Final = 5.0  # by which reports and arrivals may differ
EXACT_S: Final = 0.1  # change to an exact offset that requires a new file
ROUGH_S: Final = 0.5  # the same for an offset by arrival


class Aligned(NamedTuple):
    """The epoch of the decoded frames, and seconds to add to a time stamp of the recorded stream.

    exact  the offset follows from sender reports
    """

    epoch: int
    offset_s: float
    exact: bool

    def differs(self, before: Aligned) -> bool:
        """Return whether this requires a new file after those of an earlier relation."""
        most_s = EXACT_S if self.exact else ROUGH_S
        return self.epoch != before.epoch or abs(self.offset_s - before.offset_s) > most_s


class Alignment:
    """The clocks of a camera's two streams. Any thread.

    The decoder's thread reports frames, the thread that reads the other connection its packets.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._epoch = 0
        self._frames = _StreamClock()
        self._packets = _StreamClock()

    def see_frame(
        self, epoch: int, pts: float | None, arrived_mono: float, captured: float | None
    ) -> None:
        """Note a decoded frame. A new epoch has a new clock."""
        with self._lock:
            if epoch != self._epoch:
                self._epoch = epoch
                self._frames = _StreamClock()
            self._frames.see(pts, arrived_mono, captured)

    def begin_packets(self) -> None:
        """Note a new connection of the recorded stream, which has a new clock."""
        with self._lock:
            self._packets = _StreamClock()

    def see_packet(self, pts: float | None, arrived_mono: float, captured: float | None) -> None:
        """Note a picture's packet of the recorded stream. captured: as it reports it, or None."""
        with self._lock:
            self._packets.see(pts, arrived_mono, captured)

    def now(self) -> Aligned | None:
        """Return the present relation; None until both streams gave a time stamp."""
        with self._lock:
            return self._now()

    def _now(self) -> Aligned | None:
        frames, packets = self._frames, self._packets
        if frames.delay_s is None or packets.delay_s is None:
            return None
        offset_s = packets.delay_s - frames.delay_s
        if frames.ahead_s is not None and packets.ahead_s is not None:
            exact_s = packets.ahead_s - frames.ahead_s
            if abs(exact_s - offset_s) <= MAX_CONTRADICTION_S:
                return Aligned(self._epoch, exact_s, exact=True)
        return Aligned(self._epoch, offset_s, exact=False)

    def captured(self, pts: float | None, reported: float | None, now: float) -> float | None:
        """Return the capture time of a packet by the clock that results have: the camera's, if the
        decoded stream reports it, else None for the time of arrival.

        reported  the time that the recorded stream reports; it counts while no frame was decoded
        now       UNIX seconds, to check that the camera's clock is plausible
        """
        with self._lock:
            aligned = self._now()
            if aligned is None or pts is None:
                return camera_time(reported, now)
            if self._frames.ahead_s is None:
                return None
            return camera_time(pts + aligned.offset_s + self._frames.ahead_s, now)


class _StreamClock:
    """The clock of a stream's connection.

    delay_s  least seconds from a time stamp to the arrival on the host's monotonic clock, over the
             last WINDOW_S or two of them
    ahead_s  UNIX seconds of a capture minus its time stamp, None without a report
    """

    def __init__(self) -> None:
        self.delay_s: float | None = None
        self.ahead_s: float | None = None
        self._next_s: float | None = None  # the least delay since `_began`
        self._began = 0.0

    def see(self, pts: float | None, arrived_mono: float, captured: float | None) -> None:
        if pts is None:
            return
        delay_s = arrived_mono - pts
        if captured is not None:
            self.ahead_s = captured - pts
        if self.delay_s is None or abs(delay_s - self.delay_s) > BREAK_S:
            self.delay_s = delay_s
            self._restart(arrived_mono)
            if captured is None:
                self.ahead_s = None
        elif arrived_mono - self._began > WINDOW_S:
            if self._next_s is not None:
                self.delay_s = self._next_s
            self._restart(arrived_mono)
        if self._next_s is None or delay_s < self._next_s:
            self._next_s = delay_s
        self.delay_s = min(self.delay_s, delay_s)

    def _restart(self, arrived_mono: float) -> None:
        self._next_s = None
        self._began = arrived_mono
