"""One run of the engine as a user starts it, watched from outside: its processes and its store."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis

from benchmarks.harness.process_tree import Usage, usage
from framegate.pipeline.contracts import keys, records
from framegate.pipeline.contracts.records import SideOutput
from framegate.pipeline.contracts.results import PromiseNews, Result
from framegate.pipeline.store.embedded import socket_path
from framegate.pipeline.store.hop import END

REPOSITORY = Path(__file__).resolve().parents[2]
START_S = 60.0
_END_S = 30.0


class RunFailed(Exception):
    """The engine did not do what a benchmark needs of it; carries its last words."""


@dataclass(frozen=True, slots=True)
class RunSample:
    """How far a run was at one moment, and what it had used. published: frames of all sources."""

    mono: float
    published: int
    usage: Usage


class EngineRun:
    """`framegate run` in a process of its own, with its own data folder; gone after the block."""

    def __init__(
        self,
        config: str,
        sources: Sequence[str],
        arguments: Sequence[str] = (),
        before: Sequence[str] = (),
        checkout: Path = REPOSITORY,
    ) -> None:
        """config: text of pipeline.toml, which names these sources.

        before    what its command begins with, to run in a network namespace
        checkout  whose code runs; another than this one by the Python of its own `.venv`
        """
        python, program = Path(sys.executable), "framegate.cli"
        if checkout != REPOSITORY:  # an older one may have its command line elsewhere
            python, program = checkout / ".venv/bin/python", "framegate"
        self.sources = tuple(sources)
        self._folder = Path(tempfile.mkdtemp(prefix="framegate-bench-"))
        self.data = self._folder / "data"
        (self._folder / "pipeline.toml").write_text(config, encoding="utf-8")
        self._log = (self._folder / "log").open("wb")
        options = ("-c", str(self._folder / "pipeline.toml"), "-d", str(self.data), *arguments)
        self._process = subprocess.Popen(
            (*before, str(python), "-m", program, "run", *options),
            cwd=checkout,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
        )
        self.socket = socket_path(self.data / "store")
        self._client: Any = redis.Redis(unix_socket_path=str(self.socket))

    def __enter__(self) -> EngineRun:
        return self

    def __exit__(self, *_: object) -> None:
        self.drain()
        self._client.close()
        self._log.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def drain(self) -> None:
        """End it; its data folder stays until the end of the block."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    @property
    def pid(self) -> int:
        """Process id of the supervisor; all else of the run is below it."""
        return self._process.pid

    def published(self) -> int:
        """Frames published so far, over all sources; 0 while the store starts."""
        try:
            found = [self._client.hget(keys.count(name), "published") for name in self.sources]
        except redis.RedisError:
            return 0
        return sum(int(count or 0) for count in found)

    def counters(self) -> dict[str, dict[str, int]]:
        """All counters of each source; none while the store starts."""
        pipe = self._client.pipeline(transaction=False)
        for name in self.sources:
            pipe.hgetall(keys.count(name))
        try:
            found = pipe.execute()
        except redis.RedisError:
            found = [{} for _ in self.sources]
        pairs = zip(self.sources, found, strict=True)
        return {name: {k.decode(): int(n) for k, n in counts.items()} for name, counts in pairs}

    def wait_for(self, frames: int, timeout_s: float = START_S) -> None:
        """Until that many frames are published. RunFailed when that does not happen."""
        self._wait_until(lambda: self.published() >= frames, timeout_s)

    def wait_for_each(self, frames: int, timeout_s: float = START_S) -> None:
        """The same, of each source."""

        def all_there() -> bool:
            found = self.counters().values()
            return all(counts.get("published", 0) >= frames for counts in found)

        self._wait_until(all_there, timeout_s)

    def _wait_until(self, is_so: Callable[[], bool], timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while not is_so():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RunFailed(self.last_words())
            time.sleep(0.05)

    def wait_for_end(self, timeout_s: float) -> None:
        """Until the run ended by itself. RunFailed if it did not, or not well."""
        try:
            code = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired as slow:
            raise RunFailed(f"still running after {timeout_s:.0f} s: {self.last_words()}") from slow
        if code:
            raise RunFailed(f"exit code {code}: {self.last_words()}")

    def sample(self) -> RunSample:
        """Where it stands, and what it has used."""
        return RunSample(time.monotonic(), self.published(), usage(self.pid))

    def results(self, source: str, most: int) -> list[Result]:
        """The last published results of a source, oldest first."""
        entries = self._client.xrevrange(keys.results(source), count=most)
        fields = [fields for _, fields in reversed(entries) if fields[b"k"] != END.encode()]
        return [records.decode_versioned(each[b"d"], Result) for each in fields]

    def news(self, source: str, after: int) -> list[tuple[int, PromiseNews]]:
        """What became known of the promise with frames of epoch 1 after the one of that number;
        nothing while there is no store.
        """
        try:
            entries = self._client.xrange(
                keys.out(source, keys.CERTIFY), f"(1-{after}" if after >= 0 else "-"
            )
        except redis.RedisError:
            return []
        return [
            (int(name.rpartition(b"-")[2]), _news(fields[b"d"]))
            for name, fields in entries
            if fields[b"k"] != END.encode()
        ]

    def log_sizes(self) -> Mapping[str, int]:
        """Bytes of each append-only file of the store that is being written."""
        folder = self.data / "store" / "appendonlydir"
        return {path.name: _size(path) for path in folder.glob("*.incr.aof")}

    def last_words(self) -> str:
        """The end of its log."""
        self._log.flush()
        text = (self._folder / "log").read_text(errors="replace", encoding="utf-8")
        return " | ".join(text.strip().splitlines()[-5:]) or "it said nothing"


def _news(data: bytes) -> PromiseNews:
    return records.decode(records.decode_versioned(data, SideOutput).said, PromiseNews)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def growth(before: Mapping[str, int], after: Mapping[str, int]) -> int:
    """Bytes appended between two looks at the files; one that is new began at nothing."""
    return sum(size - min(size, before.get(name, 0)) for name, size in after.items())
