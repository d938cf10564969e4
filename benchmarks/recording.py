"""Measure recording: its cost, its equality with the packets, seeks, and the loss by a kill.

    python -m benchmarks.recording [--cameras N] [--seconds S] [--rounds N] [--seeks N] [--kills N]
        [--write]

CPU: as many files of 1080p as cameras are read at their own pace, with nothing else and with their
packets recorded, by turns in one process; what it takes more, by the clock, is a share of a core.
Bytes: what the recordings hold against the packets of the file. Seeking: from a time to the decoded
picture of it, through the index. Kills: a process that records is killed with SIGKILL at any
moment; lost is what it had read and no file has afterwards.
"""

from __future__ import annotations

import argparse
import mmap
import random
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Generator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, Final, NamedTuple

import av
from av.packet import Packet

from benchmarks.harness.report import (
    Bar,
    Benchmark,
    BenchmarkResult,
    Option,
    conditions,
    in_turn,
    percentile,
)
from framegate.pipeline.contracts.source import Request
from framegate.pipeline.contracts.spec import RecordSpec
from framegate.pipeline.recording.adopt_files import rebuild
from framegate.pipeline.recording.index import Index, Segment
from framegate.pipeline.recording.segment_writer import Recording
from framegate.stages.decode.open_video import Opened, open_video
from framegate.stages.decode.options import DecodeOptions
from framegate.stages.decode.record import PacketRecorder
from tests.support.recorded import payload, write_both

SPEC: Final = RecordSpec(bytes=1 << 40, days=7.0, pinned_days=30.0, free_bytes=1 << 20)
KBITS: Final = 4000
AT_ONCE: Final = 4
TIMES: Final = struct.Struct("d")
_CBR: Final = f"nal-hrd=cbr:bitrate={KBITS}:vbv-maxrate={KBITS}:vbv-bufsize={KBITS}"


def camera_file(path: Path, seconds: float) -> Path:
    """A 1080p H.264 of KBITS with a key frame a second, and AAC."""
    options = {"preset": "ultrafast", "bf": "0", "x264-params": _CBR}
    return write_both(path, seconds, size=(1920, 1080), options=options)


# -- A file as a camera sends it.


def paced(opened: Opened, until_mono: float) -> None:
    """Read packets when they are due, over and over; nothing is decoded."""
    began = time.monotonic()
    for packet in opened.packets():
        due = began + float(packet.dts * packet.time_base) if packet.dts is not None else began
        if time.monotonic() > until_mono:
            return
        time.sleep(max(0.0, due - time.monotonic()))


class SideRun(NamedTuple):
    """CPU seconds of reading the cameras, and how many pictures came."""

    cpu_s: float
    pictures: int


def side(file: Path, data: Path | None, cameras: int, seconds: float) -> SideRun:
    """Read so many cameras for so long; recorded in `data`, if there is one."""
    until = time.monotonic() + seconds
    came: list[bool] = []
    with ExitStack() as stack:
        threads = []
        for n in range(cameras):
            opened = open_video(Request(str(file)), DecodeOptions())
            if data is not None:
                take = Recording(data, f"camera{n}", SPEC).take()
                recorder = PacketRecorder(take, opened, live=True)
                stack.callback(recorder.close)
            # Of both sides, and so sound is read, too, where nothing records.
            opened.listeners.append(
                lambda packet: came.append(packet.size > 0 and packet.stream_index == 0)
            )
            stack.callback(opened.close)
            threads.append(threading.Thread(target=paced, args=(opened, until)))
        before = time.process_time()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return SideRun(time.process_time() - before, sum(came))


def cpu(file: Path, folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    """By turns without and with recording; `pictures_came` in the first round that recorded."""
    more, came = [], 0
    for n in range(given.rounds):
        took: dict[str, SideRun] = {}
        for name in in_turn(("off", "on"), n):
            data = folder / f"round{n}" if name == "on" else None
            took[name] = side(file, data, given.cameras, given.seconds)
        came = came or took["on"].pictures
        more.append((took["on"].cpu_s - took["off"].cpu_s) / given.seconds)
        print(f"  round {n}: {more[-1]:.4f} of a core", flush=True)
    return {"core_share": round(statistics.median(more), 4), "pictures_came": came}


# -- Whether it is what came.


def equal(file: Path, data: Path) -> dict[str, Any]:
    """Packets of the recordings of a round that are those of the file, in order."""
    came = {kind: payload(file, kind) for kind in ("video", "audio")}
    packets = same = pictures = 0
    for segments in everything(data).values():
        at = dict.fromkeys(came, 0)
        for one in segments:
            for kind, wanted in came.items():
                held = payload(data / "recordings" / one.path, kind)
                if kind == "audio" and at[kind] == 0 and held:
                    at[kind] = wanted.index(held[0])
                same += sum(a == b for a, b in zip(held, wanted[at[kind] :], strict=False))
                packets += len(held)
                pictures += len(held) * (kind == "video")
                at[kind] += len(held)
    return {"packets": packets, "packets_equal": same, "pictures": pictures}


def everything(data: Path) -> dict[str, list[Segment]]:
    """All segments by source."""
    with closing(Index(data)) as index:
        return {one.source: index.between(one.source, 0, 1e12) for one in index.recorded()}


# -- Seeking.


def seek(data: Path, count: int, seed: int) -> dict[str, Any]:
    """Milliseconds from a time to the picture that was shown then."""
    chance, took = random.Random(seed), []
    recorded = everything(data)
    for _ in range(count):
        source = chance.choice(sorted(recorded))
        segments = recorded[source]
        at = chance.uniform(segments[0].captured, segments[-1].captured_end - 0.2)
        began = time.perf_counter()
        with closing(Index(data)) as index:
            (one, *_) = index.between(source, at, at + 0.1)
            wanted = one.pts + one.shift_s + at - one.captured
            with av.open(str(index.folder / one.path)) as held:
                next(f for f in held.decode(video=0) if f.time and f.time >= wanted - 0.1)
        took.append(1e3 * (time.perf_counter() - began))
    return {
        "seek_p50_ms": round(percentile(took, 0.5), 1),
        "seek_p99_ms": round(percentile(took, 0.99), 1),
    }


# -- Kills.


def victim(file: str, data: str, shared: str) -> None:
    """Record a file as a camera sends it, again and again, until killed; note when each packet of
    pictures was read.
    """
    with open(shared, "r+b") as opened_file:
        memory = mmap.mmap(opened_file.fileno(), TIMES.size)
    while True:
        opened = open_video(Request(file), DecodeOptions())
        recorder = PacketRecorder(Recording(Path(data), "camera", SPEC).take(), opened, live=True)

        def note(packet: Packet[Any]) -> None:
            if packet.size and packet.stream_index == 0:
                TIMES.pack_into(memory, 0, time.time())

        opened.listeners.append(note)
        paced(opened, float("inf"))
        opened.close()
        recorder.close()


def kill(file: Path, folder: Path, number: int, after_s: float) -> Generator[dict[str, float]]:
    """Begin; on the next step, kill it and tell what is lost, and how many pictures are broken."""
    data, shared = folder / f"kill{number}", folder / f"kill{number}.times"
    shared.write_bytes(bytes(TIMES.size))
    words = [str(file), str(data), str(shared)]
    process = subprocess.Popen([sys.executable, "-m", "benchmarks.recording", "--victim", *words])
    try:
        while TIMES.unpack(shared.read_bytes())[0] == 0.0:
            time.sleep(0.05)
        began = time.monotonic()
        yield {}
        time.sleep(max(0.0, began + after_s - time.monotonic()))
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    (read,) = TIMES.unpack(shared.read_bytes())
    with closing(Index(data)) as index:
        rebuild(index)
        segments = index.between("camera", 0, 1e12)
        broken = 0
        for one in segments:
            with av.open(str(index.folder / one.path)) as held:
                n_packets = sum(packet.size > 0 for packet in held.demux(video=0))
            with av.open(str(index.folder / one.path)) as held:
                broken += n_packets - sum(not f.is_corrupt for f in held.decode(video=0))
        left = list(index.folder.rglob("*.open"))
    last = max((one.captured_end for one in segments), default=read - after_s)
    yield {"lost_s": max(0.0, read - last), "broken": broken + len(left)}


def kills(file: Path, folder: Path, count: int, seed: int) -> dict[str, Any]:
    """Some at once."""
    chance, lost, broken = random.Random(seed), [], 0
    for first in range(0, count, AT_ONCE):
        numbers = range(first, min(count, first + AT_ONCE))
        under_way = [kill(file, folder, n, chance.uniform(1.0, 9.0)) for n in numbers]
        for each in under_way:
            next(each)
        for each in under_way:
            told = next(each)
            each.close()
            lost.append(told["lost_s"])
            broken += int(told["broken"])
        print(f"  {len(lost)} kills: at most {max(lost):.3f} s lost", flush=True)
    return {
        "kills": len(lost),
        "lost_most_s": round(max(lost), 3),
        "lost_median_s": round(statistics.median(lost), 3),
        "undecodable": broken,
    }


def whole(given: argparse.Namespace) -> BenchmarkResult:
    """The whole result."""
    told = conditions(("av",), cameras=given.cameras, kbits=KBITS, size="1920x1080", fps=25)
    print(told, flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file = camera_file(folder / "camera.mp4", given.seconds + 2)
        small = write_both(folder / "small.mp4", 12.0, size=(320, 180), options={"bf": "0"})
        found = cpu(file, folder, given)
        data = folder / "round0"
        found |= equal(file, data) | seek(data, given.seeks, 1)
        print(found, flush=True)
        found |= kills(small, folder, given.kills, 2)
    return found | {"conditions": told}


def bars(result: BenchmarkResult) -> list[Bar]:
    """What recording may cost, and lose."""
    missing = None
    if "pictures_came" in result:  # results of before have no count
        missing = result["pictures_came"] - result["pictures"]
    return [
        Bar("recording all cameras, of a core", result["core_share"], "<=", 0.03),
        Bar("packets equal, share", result["packets_equal"] / result["packets"], ">=", 1.0),
        Bar("pictures that came and are not recorded", missing, "<=", 0),
        Bar("seek p99, ms", result["seek_p99_ms"], "<=", 300.0),
        Bar("lost by a kill at most, s", result["lost_most_s"], "<=", 1.0),
        Bar("pictures of killed recordings that do not decode", result["undecodable"], "<=", 0.0),
    ]


BENCHMARK = Benchmark(
    name="recording",
    measure=whole,
    options={
        "cameras": Option(8, 2),
        "seconds": Option(20.0, 3.0),
        "rounds": Option(5, 1),
        "seeks": Option(200, 5),
        "kills": Option(100, 2),
    },
    bars=bars,
)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--victim"]:
        victim(*sys.argv[2:])
    sys.exit(BENCHMARK.main())
