"""The clocks of a host as a test says: time passes, the wall clock steps, the host boots."""

from __future__ import annotations

from framegate.pipeline.system.clocks import HostClock


class SimulatedHost:
    """What `read_host_clock` returns on such a host: call it."""

    def __init__(self, wall_s: float) -> None:
        """wall_s: UNIX seconds that its wall clock shows at first."""
        self._now = HostClock(wall_s, 1000.0, "boot-1")

    def __call__(self) -> HostClock:
        return self._now

    @property
    def wall_s(self) -> float:
        """UNIX seconds that its wall clock shows."""
        return self._now.wall_s

    def passes(self, seconds: float) -> None:
        """Let time pass."""
        wall_s, up_s, boot = self._now
        self._now = HostClock(wall_s + seconds, up_s + seconds, boot)

    def steps(self, seconds: float) -> None:
        """Set the wall clock forward, or back; no time passes."""
        self._now = self._now._replace(wall_s=self._now.wall_s + seconds)

    def boots(self, off_s: float) -> None:
        """Switch it off for so long, and on again."""
        wall_s, _, boot = self._now
        self._now = HostClock(wall_s + off_s, 5.0, boot + "+")
