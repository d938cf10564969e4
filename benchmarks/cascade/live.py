"""Measure the latency of a clip's frames when a camera sends them at the rate of the clip.

The clip is played by an RTSP server to `framegate run`, without a heavy model and with that of the
same machine, in turn. Response is of each frame that is published, from its own time
stamp to its publication, by one clock: waits behind another frame's answer count in full, and what
is dropped is counted apart. The server sends each frame at once at the time of its stamp.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import av
import numpy as np

from benchmarks.harness import configuration
from benchmarks.harness.engine_run import EngineRun
from benchmarks.harness.gate_clips import GateClip
from benchmarks.harness.live_cameras import ClipCameras
from benchmarks.harness.report import percentile
from benchmarks.live.point import SETTLE, grown
from framegate.pipeline.contracts.results import Result
from framegate.pipeline.telemetry import histograms
from tests.support.footage import frame_of, write_frames

_SOURCE: Final = "clip"
_SETTLE_S: Final = 2.0
_SPARE_S: Final = 10.0  # of footage, for starting; then it is played over
_X264: Final = {"preset": "veryfast", "crf": "18", "bf": "0", "sc_threshold": "0"}


@dataclass(frozen=True, slots=True)
class Response:
    """Milliseconds of all frames that were published in the span.

    escalated_mean_ms   of those with an answer; None without any
    escalated_p99_ms    the same
    arrival_p50_ms      from when the decoder had them, by the store's histogram: right to 12 %
    degraded            how many should have had one, by reason
    stamped             how many of all had the camera's own time; others count from their arrival
    """

    frames: int
    dropped: int
    mean_ms: float
    p50_ms: float
    p99_ms: float
    escalated: int
    escalated_mean_ms: float | None
    escalated_p99_ms: float | None
    arrival_p50_ms: float
    degraded: dict[str, int]
    stamped: int


def measure(clip: GateClip, seconds: float, folder: Path, light_first: bool) -> dict[str, Any]:
    """Response with escalation, and `light`: without. RunFailed where one does not get on."""
    film = folder / f"{clip.name}.mkv"
    _encode(clip, film, seconds + _SPARE_S)
    found: dict[bool, Response] = {}
    with ClipCameras(folder) as server:
        url = f"rtsp://127.0.0.1:{server.port}/{film.name}?play_count=0"
        for escalates in (False, True) if light_first else (True, False):
            found[escalates] = _run(config_text(url, escalates), seconds)
    film.unlink()
    return {**asdict(found[True]), "light": asdict(found[False])}


def config_text(url: str, escalates: bool) -> str:
    """The packaged pipeline.toml with the camera as its source, and with its heavy pass or not.

    Without the exact cache: a short clip is played over. With all classes, as in `replay`.
    """
    heavy = {"escalate": {"place": "local"}} if escalates else {}
    return configuration.packaged(
        {
            **configuration.NO_EXACT_CACHE,
            f"sources.{_SOURCE}": {"url": url},
            "stages.detect": {"classes": "all"},
            **heavy,
        }
    )


def _run(config: str, seconds: float) -> Response:
    with EngineRun(config, [_SOURCE]) as run:
        run.wait_for(SETTLE)
        time.sleep(_SETTLE_S)
        before, since = run.counters(), time.time()
        time.sleep(seconds)
        growth = grown(before, run.counters())
        results = run.results(_SOURCE, 10**5)
    dropped = sum(n for what, n in growth.items() if what.startswith("dropped:"))
    arrival_s = histograms.percentile(growth, 0.50) or 0.0
    return response([one for one in results if one.published >= since], dropped, 1e3 * arrival_s)


def response(results: Sequence[Result], dropped: int, arrival_p50_ms: float) -> Response:
    """Of these frames, one or more."""
    late = [1e3 * (one.published - one.captured) for one in results]
    asked = [ms for ms, one in zip(late, results, strict=True) if one.escalation == "done"]
    return Response(
        frames=len(results),
        dropped=dropped,
        mean_ms=round(statistics.fmean(late), 2),
        p50_ms=round(percentile(late, 0.50), 2),
        p99_ms=round(percentile(late, 0.99), 2),
        escalated=len(asked),
        escalated_mean_ms=round(statistics.fmean(asked), 2) if asked else None,
        escalated_p99_ms=round(percentile(asked, 0.99), 2) if asked else None,
        arrival_p50_ms=round(arrival_p50_ms, 2),
        degraded=dict(Counter(one.degraded for one in results if one.degraded is not None)),
        stamped=sum(one.captured_from == "rtcp" for one in results),
    )


def _encode(clip: GateClip, path: Path, seconds: float) -> None:
    """The clip's first seconds as a camera sends them: H.264 without B-frames, a key frame in two
    seconds.
    """

    def setup(stream: av.VideoStream) -> None:
        stream.gop_size = max(1, round(2 * clip.fps))

    stamps = list(_stamps(clip, seconds))
    shots = zip(clip.shots(), stamps, strict=False)
    pictures = (shot.picture for shot, _ in shots)
    planes = ([np.asarray(plane) for plane in (one.y, one.u, one.v)] for one in pictures)
    write_frames(path, (frame_of(each, "yuv420p") for each in planes), stamps, "libx264",
                 options=_X264, setup=setup)  # fmt: skip


def _stamps(clip: GateClip, seconds: float) -> Iterator[float]:
    """Seconds of each frame after the first one, in whole and rising milliseconds."""
    first = last = None
    for number, shot in enumerate(clip.shots()):
        pts = number / clip.fps if shot.pts is None else shot.pts
        first = pts if first is None else first
        last = round(pts - first, 3) if last is None else max(round(pts - first, 3), last + 0.001)
        if last > seconds:
            return
        yield last
