"""`framegate run` as a user's shell starts it, in a folder with a pipeline.toml of one's own.

The folder's graph is the packaged one with a stage of user_stages.py in detect's place, so that
runs are quick and what they publish is known beforehand.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgpack  # type: ignore[import-untyped]
import redis

from tests.support.runs import DEADLINE_S, environment, wait_until

GRAPH = """
[stages.decode]
use = "framegate.stages.decode:Decode"
[stages.window]
use = "user_stages:Sized"
input = "decode"
[stages.detect]
use = "user_stages:Crowd"
input = "window"
[stages.escalate]
use = "framegate.stages.escalate:Escalate"
input = "{before_escalate}"
[stages.cache]
use = "framegate.stages.publish:Publish"
input = "escalate"
"""

APART = """
[placement]
ingest = ["decode", "window"]
infer = ["detect"]
publish = ["escalate", "cache"]
"""


def user_folder(path: Path, more: str = "", main: str = "", *, apart: bool = False) -> Path:
    """A folder with user_stages.py and pipeline.toml.

    more   further tables
    main   tables of a stage `extra` on the main path, between detect and escalate
    apart  whether three workers share the stages, as APART says, not one that hosts them all
    """
    path.mkdir(parents=True, exist_ok=True)
    shutil.copy(Path(__file__).with_name("user_stages.py"), path)
    graph = GRAPH.format(before_escalate="extra" if main else "detect")
    extra = f'[stages.extra]\ninput = "detect"\n{main}\n' if main else ""
    (path / "pipeline.toml").write_text(
        f"{more}\n{extra}{graph}{APART if apart else ''}", encoding="utf-8"
    )
    return path


@dataclass(frozen=True)
class Ended:
    """How a command ended; `err` is what the user sees."""

    code: int
    out: str
    err: str

    def results(self, source: str) -> list[dict[str, Any]]:
        """What --json printed of a source."""
        lines = [json.loads(line) for line in self.out.splitlines()]
        return [result for result in lines if result["source"] == source]


class Command:
    """A framegate command under way."""

    def __init__(
        self,
        folder: Path,
        *words: str,
        before: Sequence[str] = (),
        package: Path | None = None,
    ) -> None:
        """Start it.

        before   what stands before the command itself, as in `unshare -m ...`
        package  where Python finds another version of Framegate
        """
        self._out, self._err = folder / "out.txt", folder / "err.txt"
        env = {**environment(), "XDG_STATE_HOME": str(folder / "state")}
        if package is not None:
            env["PYTHONPATH"] = str(package)
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(
                [*before, sys.executable, "-m", "framegate.cli", *words],
                cwd=folder,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
            )

    @property
    def err(self) -> str:
        """What it said so far."""
        return self._err.read_text(encoding="utf-8")

    @property
    def out(self) -> str:
        """What it has printed so far."""
        return self._out.read_text(encoding="utf-8")

    def says(self, words: str) -> None:
        """Wait until it has said this."""
        wait_until(f"says {words!r}", lambda: words in self.err or self._dead(), DEADLINE_S)
        assert words in self.err, self.err

    def _dead(self) -> bool:
        return self.process.poll() is not None

    def interrupt(self) -> None:
        """Ctrl-C."""
        self.process.send_signal(signal.SIGINT)

    def wait(self, deadline_s: float = DEADLINE_S) -> Ended:
        """Its end; an AssertionError with what it said if it does not come."""
        try:
            code = self.process.wait(deadline_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"it did not end:\n{self.err[-4000:]}") from None
        return Ended(code, self._out.read_text(encoding="utf-8"), self.err)

    def kill(self) -> None:
        """End it, and with it all that it started."""
        if not self._dead():
            self.process.kill()
        self.process.wait()

    def __enter__(self) -> Command:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


def framegate(folder: Path, *words: str, before: Sequence[str] = ()) -> Ended:
    """Run a command to its end."""
    with Command(folder, *words, before=before) as command:
        return command.wait()


class Reader:
    """What is in a store, read as any Redis client would: nothing of ours is used."""

    def __init__(self, url: str) -> None:
        self.client: Any = redis.Redis.from_url(url, protocol=2)

    def entries(self, source: str, stream: str) -> list[tuple[str, str, Any]]:
        """(id, kind, message) of all entries of results, or of out:<stage>."""
        found = self.client.xrange(f"fg:{{{source}}}:{stream}")
        return [(i.decode(), f[b"k"].decode(), msgpack.unpackb(f[b"d"])) for i, f in found]

    def results(self, source: str) -> list[dict[str, Any]]:
        """Published results, in order, the ids checked against what stands in them."""
        frames = [(i, said) for i, kind, said in self.entries(source, "results") if kind == "frame"]
        assert [i for i, _ in frames] == [f"{r['epoch']}-{r['seq']}" for _, r in frames]
        return [result for _, result in frames]

    def counters(self, source: str) -> dict[str, int]:
        """Counters of a source."""
        found = self.client.hgetall(f"fg:{{{source}}}:count")
        return {name.decode(): int(value) for name, value in found.items()}

    def asides(self, source: str) -> list[dict[str, bytes]]:
        """Records that were set aside."""
        found = self.client.xrange(f"fg:{{{source}}}:aside")
        return [{name.decode(): value for name, value in f.items()} for _, f in found]

    def whole(self, source: str, frames: int) -> list[dict[str, Any]]:
        """The results of a run that has ended: one epoch, each frame once, law 4 closed."""
        results = self.results(source)
        assert [r["seq"] for r in results] == list(range(frames))
        assert {r["epoch"] for r in results} <= {results[0]["epoch"]} if results else True
        counters = self.counters(source)
        dropped = sum(n for name, n in counters.items() if name.startswith("dropped:"))
        assert counters.get("decoded", 0) == counters.get("published", 0) + dropped == frames
        return results

    def close(self) -> None:
        self.client.close()
