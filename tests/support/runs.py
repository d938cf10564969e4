"""Runs of the real command line for tests: start, disturb, and read what was published."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis

from framegate.pipeline.contracts import keys, records
from framegate.pipeline.contracts.errors import StoreBusy, StoreLost
from framegate.pipeline.contracts.records import Position
from framegate.pipeline.contracts.results import Result
from framegate.pipeline.fsck.check import findings_of, fsck
from framegate.pipeline.fsck.read_folder import read_folder
from framegate.pipeline.store.admin import StoreAdmin
from framegate.pipeline.store.embedded import EmbeddedStore
from framegate.pipeline.telemetry.counters import objects_of

DEADLINE_S = 300.0  # after which a test gives up waiting; a busy machine takes a fifth of that


def wait_until(what: str, condition: Callable[[], Any], deadline_s: float = DEADLINE_S) -> Any:
    """Poll until the condition gives something true; AssertionError after the deadline."""
    end = time.monotonic() + deadline_s
    while (began := time.monotonic()) < end:
        try:
            found = condition()
        except (StoreLost, StoreBusy, redis.ConnectionError, FileNotFoundError):
            found = None
        if found:
            return found
        # The run needs the cores: conditions that read a store take a quarter of one at most.
        time.sleep(min(max(0.005, 3 * (time.monotonic() - began)), 0.05))
    raise AssertionError(f"not in {deadline_s:.0f} s: {what}")


def stop_process(pid: int) -> None:
    """Send SIGSTOP to a process, and wait until all of its threads are stopped.

    The kernel stops the other threads when the thread that gets the signal runs, which may take a
    while on a busy machine.
    """

    def is_stopped() -> bool:
        states = [
            path.read_text(encoding="utf-8").rpartition(")")[2].split()[0]
            for path in Path(f"/proc/{pid}/task").glob("*/stat")
        ]
        return all(state == "T" for state in states)

    os.kill(pid, signal.SIGSTOP)
    wait_until("all threads are stopped", is_stopped)


def children(pid: int) -> dict[int, list[str]]:
    """Command lines of the living children of a process, by process id. Asks the kernel for its
    children alone: who polls would else read of every process of the machine each time.
    """
    found = {}
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
    except OSError:
        return {}
    for child in (child for task in tasks for child in _children_of(task)):
        entry = Path(f"/proc/{child}")
        try:
            stat = (entry / "stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()
            command = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if int(stat[1]) == pid and stat[0] != "Z":
            found[child] = [part.decode() for part in command]
    return found


def _children_of(task: Path) -> list[int]:
    try:
        return [int(child) for child in (task / "children").read_text(encoding="utf-8").split()]
    except OSError:  # the thread has ended
        return []


@dataclass
class Published:
    """One source's published stream: results in order, and whether its last end came; counts."""

    positions: list[Position]
    results: list[Result]
    ended: bool
    objects: dict[str, int]  # as counted, by label


class Run:
    """A `framegate run` process on a data folder."""

    def __init__(self, folder: Path, *words: str, cwd: Path | None = None) -> None:
        self.folder = folder
        self.log = folder.with_suffix(".log")
        command = [sys.executable, "-m", "framegate.cli", "run", "-d", str(folder), *words]
        self.out = folder.with_suffix(".out")
        with self.log.open("ab") as log, self.out.open("ab") as out:
            self.process = subprocess.Popen(
                command, stdout=out, stderr=log, cwd=cwd, env=environment()
            )

    @property
    def url(self) -> str:
        return EmbeddedStore(self.folder / "store", "everysec").url

    def worker(self, name: str) -> int | None:
        """Process id of a worker, None while there is none."""
        for pid, command in children(self.process.pid).items():
            if command[1:4] == ["-m", "framegate.pipeline.run.worker_main", name]:
                return pid
        return None

    def valkey(self) -> int | None:
        """Process id of the embedded server, None while there is none."""
        for pid, command in children(self.process.pid).items():
            if "valkey-server" in command[0]:
                return pid
        return None

    def positions(self, source: str, stages: Sequence[str]) -> dict[str, Position]:
        store = StoreAdmin(self.url)
        try:
            return store.positions(source, list(stages))
        finally:
            store.close()

    def wait(self, deadline_s: float = DEADLINE_S) -> int:
        """Exit code; the log is shown if it does not end in time."""
        try:
            return self.process.wait(deadline_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(
                f"the run did not end:\n{self.log.read_text(encoding='utf-8')[-4000:]}"
            ) from None

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait()


def environment() -> dict[str, str]:
    root = Path(__file__).parents[2]
    return {**os.environ, "PYTHONPATH": str(root), "PYTHONUNBUFFERED": "1"}


def published(url: str, source: str) -> Published:
    """All that a source has published, from a running store."""
    client: Any = redis.Redis.from_url(url, protocol=2)
    try:
        entries = client.xrange(keys.results(source))
        counted = client.hgetall(keys.count(source))
    finally:
        client.close()
    frames = [(i, f[b"d"]) for i, f in entries if f[b"k"] == b"frame"]
    results = [records.decode_versioned(data, Result) for _, data in frames]
    ends = [records.decode(f[b"d"], records.End) for _, f in entries if f[b"k"] == b"end"]
    positions = [Position.parse(i) for i, _ in frames]
    objects = objects_of({name.decode(): int(n) for name, n in counted.items()})
    return Published(positions, results, any(end.last for end in ends), objects)


def published_in(folder: Path, sources: Sequence[str]) -> dict[str, Published]:
    """The same from the data folder of a run that has ended, whose parts agree; closes law 4."""
    embedded = EmbeddedStore(folder / "store", "everysec")
    embedded.start()
    try:
        check_consistent(folder, embedded.url)
        store = StoreAdmin(embedded.url)
        for source in sources:
            check_accounts(store.counters(source))
        store.close()
        return {source: published(embedded.url, source) for source in sources}
    finally:
        embedded.stop()


def check_consistent(folder: Path, url: str | None = None) -> None:
    """Check that all parts of the data folder of an ended run agree: the end of every kill test.

    url: of its store, where that is started already
    """
    findings = fsck(folder).findings if url is None else findings_of(read_folder(folder, url))
    assert [finding for finding in findings if finding.kind == "fault"] == []


def check_accounts(counters: dict[str, int]) -> None:
    """Law 4 at the end of a run: decoded = published + dropped."""
    dropped = sum(n for name, n in counters.items() if name.startswith("dropped:"))
    assert counters.get("decoded", 0) == counters.get("published", 0) + dropped, counters


def said(results: Sequence[Result]) -> list[Any]:
    """What must not depend on kills: everything but the times of this run."""
    return [
        (
            *(r.source, r.seq, r.pts, r.width, r.height),
            *(r.outcome, r.looked, r.objects, r.settled, r.models),
        )
        for r in results
    ]
