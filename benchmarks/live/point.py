"""One point of the live benchmark: so many cameras of one height, through `framegate run`.

Latency from a frame's arrival is the growth of the store's histogram over the measured span (right
to 12 %); from the camera's own clock, which here is this machine's, it is exact, from the results.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from benchmarks.harness import configuration
from benchmarks.harness.engine_run import EngineRun, RunFailed
from benchmarks.harness.live_cameras import FPS, ClipCameras
from benchmarks.harness.process_tree import memory_bytes
from benchmarks.harness.report import percentile
from framegate.pipeline.contracts.results import Result
from framegate.pipeline.telemetry import histograms

LATE_MS = 500.0
COMPLETE = 0.97  # of what the cameras should have sent: the span's edges cut through frames
SETTLE = 10
NO_CHANGES: Final[configuration.Tables] = MappingProxyType({})
_LOOK_S = 0.5


@dataclass(frozen=True)
class LivePoint:
    """What was measured with so many cameras.

    published, dropped   frames of all cameras in the span of `seconds`
    p50_ms ...           from arrival to publication
    camera_p50_ms ...    from the camera's own time stamp to publication, None without stamps
    cpu_cores            of the whole run: all processes, the store, not the cameras
    cpu_by_process       the same by worker; server_cores: the cameras' own process
    rss_mb               most proportional set size of the whole run
    """

    cameras: int
    height: int
    seconds: float
    published: int
    dropped: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    camera_p50_ms: float | None
    camera_p99_ms: float | None
    cpu_cores: float
    cpu_by_process: Mapping[str, float] = field(default_factory=dict)
    server_cores: float = 0.0
    rss_mb: float = 0.0

    @property
    def held(self) -> bool:
        """Return whether every frame was published, and 99 % of them in time."""
        complete = self.published >= COMPLETE * self.cameras * FPS * self.seconds
        return complete and not self.dropped and self.p99_ms < LATE_MS


def config_text(urls: Sequence[str], detect: configuration.Tables = NO_CHANGES) -> str:
    """The packaged pipeline.toml with these cameras as its sources, and changes of other tables.

    Without the exact cache: all cameras show the same clip, one some seconds after another.
    """
    cameras = {f"sources.{source(number)}": {"url": url} for number, url in enumerate(urls)}
    return configuration.packaged({**configuration.NO_EXACT_CACHE, **cameras, **detect})


def source(number: int) -> str:
    """Name of a camera's source."""
    return f"camera{number}"


def measure(
    server: ClipCameras,
    cameras: int,
    height: int,
    seconds: float,
    settle_s: float,
    detect: configuration.Tables = NO_CHANGES,
) -> LivePoint | None:
    """Run the engine on cameras that play; None if not every one of them gave frames.

    settle_s: seconds before the measured ones, after ten frames of each camera
    detect: tables of pipeline.toml that say what looks at them, as far as not the packaged one
    """
    names = [source(number) for number in range(cameras)]
    with EngineRun(config_text(server.urls(cameras, height), detect), names) as run:
        try:
            run.wait_for_each(SETTLE)
        except RunFailed as failure:
            print(f"  {cameras} cameras of {height}: {failure}", flush=True)
            return None
        time.sleep(settle_s)
        counted, used, served = run.counters(), run.sample(), server.usage()
        peak, since = 0, time.time()
        while time.monotonic() < used.mono + seconds:
            time.sleep(_LOOK_S)
            peak = max(peak, memory_bytes(run.pid))
        after, end, served_after = run.counters(), run.sample(), server.usage()
        span = end.mono - used.mono
        by_process = end.usage.by_command_since(used.usage)
        stamped = [s for name in names for s in _from_camera(run.results(name, 10**4), since)]
    growth = grown(counted, after)
    return LivePoint(
        cameras=cameras,
        height=height,
        seconds=round(span, 2),
        published=growth["published"],
        dropped=sum(n for what, n in growth.items() if what.startswith("dropped:")),
        **_percentiles(growth),
        camera_p50_ms=_ms(stamped, 0.50),
        camera_p99_ms=_ms(stamped, 0.99),
        cpu_cores=round(sum(by_process.values()) / span, 3),
        cpu_by_process={who: round(s / span, 3) for who, s in sorted(by_process.items())},
        server_cores=round(served_after.since(served) / span, 3),
        rss_mb=round(peak / 2**20, 1),
    )


def grown(
    before: Mapping[str, Mapping[str, int]], after: Mapping[str, Mapping[str, int]]
) -> Counter[str]:
    """How all sources' counters grew together."""
    total: Counter[str] = Counter()
    for name, counts in after.items():
        total.update(counts)
        total.subtract(before.get(name, {}))
    return total


def _percentiles(growth: Mapping[str, int]) -> dict[str, float]:
    shares = {"p50_ms": 0.50, "p95_ms": 0.95, "p99_ms": 0.99}
    found = {key: histograms.percentile(growth, share) for key, share in shares.items()}
    return {key: round(1e3 * (seconds or 0.0), 1) for key, seconds in found.items()}


def _from_camera(results: Sequence[Result], since: float) -> list[float]:
    return [
        result.published - result.captured
        for result in results
        if result.captured_from == "rtcp" and result.published >= since
    ]


def _ms(seconds: Sequence[float], share: float) -> float | None:
    return round(1e3 * percentile(seconds, share), 1) if seconds else None
