"""Cameras that mean harm cost what is stated and only themselves: a neighbour notices nothing."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import pytest

from framegate.pipeline.contracts.errors import SourceFault
from framegate.pipeline.contracts.source import Request
from framegate.stages.decode.camera import CameraSource
from framegate.stages.decode.options import DecodeOptions
from tests.support.cameras.hostile import KINDS, HostileCamera
from tests.support.cameras.scripted import ScriptedCamera, paced
from tests.support.cameras.watched import WatchedRun
from tests.support.commands import framegate
from tests.support.runs import DEADLINE_S

pytestmark = pytest.mark.whole_run

STALL = "[live]\nstall_s = 2.0\nretry_most_s = 0.2\n"
MOST_KB = 200_000  # for each
FLOODS = ("endless_picture", "no_boundary", "endless_part_headers")
# What sizes may cost is bounded elsewhere; a slow answer costs open_timeout_s, each time.
ALL_AT_ONCE = sorted(KINDS.keys() - {"changing_sizes", "slow_loris"})
# These give bytes for as long as they are read; the others end before, however busy the machine is.
ENDED_BY_TIME, ENDED_BY_TIME_S = ("huge_at_once", "slow_loris"), 3.0
WORST = {
    "endless_picture": "damaged",
    "no_boundary": "damaged",
    "endless_part_headers": "damaged",
    "huge_picture": "no_memory",
    "huge_at_once": "no_memory",
    "endless_headers": "not_video",
    "endless_line": "not_video",
    "garbage": "not_video",
    "nameless_garbage": "not_video",
    "broadcast": "not_video",
    "list_of_places": "unreachable",
    "slow_loris": "unreachable",
}


@pytest.mark.parametrize(("kind", "reason"), WORST.items())
def test_each_ends_with_its_reason(kind: str, reason: str) -> None:
    options = DecodeOptions(open_timeout_s=60.0)
    if kind in ENDED_BY_TIME:
        options = DecodeOptions(open_timeout_s=ENDED_BY_TIME_S)
    with HostileCamera(kind) as camera, pytest.raises(SourceFault) as caught:
        _read(CameraSource(Request(camera.url, live=True), options))
    assert caught.value.reason == reason


def test_a_reader_that_nobody_wants_any_more_ends_though_bytes_come() -> None:
    with HostileCamera("trickle") as camera:
        source = CameraSource(Request(camera.url, live=True), DecodeOptions())
        next(iter(source))
        reader = threading.Thread(target=_until_fault, args=(source,))
        reader.start()
        source.abandon()
        reader.join(DEADLINE_S)
        assert not reader.is_alive()


def _until_fault(source: CameraSource) -> None:
    with suppress(SourceFault):
        _read(source)


def _read(source: CameraSource) -> None:
    with closing(source):
        for _ in source:
            pass


def _resident_kb(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return int(status.partition("VmRSS:")[2].split()[0])


def _connections(pid: int) -> Counter[int]:
    """Sockets that a process has open over TCP, by the port at the other end."""
    rows = [
        row.split()
        for row in Path(f"/proc/{pid}/net/tcp").read_text(encoding="utf-8").splitlines()[1:]
    ]
    ports = {f"socket:[{row[9]}]": int(row[2].rpartition(":")[2], 16) for row in rows}
    held: list[str] = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            held.append(os.readlink(entry))
    return Counter(ports[name] for name in held if name in ports)


def test_all_of_them_at_once_cost_their_worker_little_and_their_neighbour_nothing(
    tmp_path: Path,
) -> None:
    with ExitStack() as close:
        sound = close.enter_context(ScriptedCamera(lambda: paced(100_000, 10)))
        run = WatchedRun(tmp_path / "user", {"sound": sound.url}, STALL, apart=True)
        close.callback(run.close)
        run.until_published("sound", 10)
        ingest = run.worker("ingest")
        before = most = _resident_kb(ingest)
        cameras = {kind: close.enter_context(HostileCamera(kind)) for kind in ALL_AT_ONCE}
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()

        def add(kinds: Iterable[str]) -> None:
            named = [f"{kind}={cameras[kind].url}" for kind in kinds]
            added = framegate(elsewhere, "add", *named, "-d", str(run.data))
            assert added.code == 0, added.err

        open_at_once: Counter[int] = Counter()

        def came_back(kinds: Iterable[str]) -> bool:
            nonlocal most
            most = max(most, _resident_kb(ingest))
            for port, n in _connections(ingest).items():
                open_at_once[port] = max(n, open_at_once[port])
            return all(cameras[kind].accepted >= 3 for kind in kinds)

        add([FLOODS[0]])
        run.until("it was connected to again", lambda: came_back([FLOODS[0]]))
        assert most - before < MOST_KB, f"{before} kB became {most} kB"
        add(sorted(cameras.keys() - {FLOODS[0]}))
        run.until("each was connected to again", lambda: came_back(cameras))
        assert run.worker("ingest") == ingest
        assert run.counters("sound")["connects"] == 1
        most_open = {kind: open_at_once[camera.port] for kind, camera in cameras.items()}
    assert max(most_open.values()) <= 2, most_open  # one that was given up, and the new one
    assert most_open["trickle"] >= 1, most_open
    assert most - before < len(FLOODS) * MOST_KB, f"{before} kB became {most} kB"
