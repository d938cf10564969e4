"""A `framegate run` on cameras, with what every scenario asks of it at its end.

All is read from outside: the store by its keys, the run's files, and what its processes show.
"""

from __future__ import annotations

import base64
import contextlib
import os
import re
import secrets
import signal
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import msgpack  # type: ignore[import-untyped]

from framegate.pipeline.store.embedded import EmbeddedStore
from tests.support.commands import Command, Reader, framegate, user_folder
from tests.support.runs import DEADLINE_S, children, wait_until

USER = "viewer"
SECRET = f"{secrets.token_hex(8)}!{secrets.token_hex(4)}"
_ADDRESS = re.compile(r"live page at (http://\S+)")
# Far above what a busy machine makes a sound camera wait: only what stands still is a stall.
LIVE = "[live]\nstall_s = 10.0\nretry_most_s = 0.2\n"


def url(port: int, path: str, scheme: str = "rtsp", password: str = SECRET) -> str:
    """Where a camera is, with a name and a password whether it asks for them or not."""
    return f"{scheme}://{USER}:{quote(password)}@127.0.0.1:{port}{path}"


@dataclass(frozen=True)
class Accounts:
    """One source at one moment. decoded = published + dropped + in_flight is law 4."""

    decoded: int
    published: int
    dropped: int
    in_flight: int


class WatchedRun:
    """Runs until it is closed; `reader` reads its store meanwhile."""

    def __init__(
        self,
        folder: Path,
        sources: dict[str, str],
        more: str = LIVE,
        main: str = "",
        also: Sequence[str] = (),
        words: Sequence[str] = (),
        apart: bool = False,
    ) -> None:
        """sources: URL by name; more, main, apart: as of user_folder; also: sources named in
        `more`; words: more of the command line.
        """
        self.folder = user_folder(folder, more, main, apart=apart)
        self.data = self.folder / "data"
        self.sources = (*sources, *also)
        named = [f"{name}={place}" for name, place in sources.items()]
        self.command = Command(
            self.folder, "run", *named, "-d", "data", "--json", "--http", "127.0.0.1:0", *words
        )
        try:
            store = EmbeddedStore(self.data / "store", "everysec")
            self.reader = Reader(store.url)
            wait_until("the store answers", lambda: not self.alive or self.reader.client.ping())
            assert self.alive, self.command.err
        except BaseException:
            self.command.kill()
            raise

    # -- what it does

    @property
    def alive(self) -> bool:
        """Whether the run goes on."""
        return self.command.process.poll() is None

    def worker(self, name: str) -> int:
        """Process id of a worker."""
        return int(wait_until(name, lambda: self._workers().get(name)))

    def _workers(self) -> dict[str, int]:
        found = children(self.command.process.pid)
        return {
            c[3]: pid
            for pid, c in found.items()
            if c[1:3] == ["-m", "framegate.pipeline.run.worker_main"]
        }

    def connection(self, source: str) -> dict[str, Any]:
        """What the store says of a camera's connection: state, since, fault; {} before it does."""
        said = self.reader.client.hget(f"fg:{{{source}}}:at:decode", "c")
        return msgpack.unpackb(said) if said else {}

    def counters(self, source: str) -> dict[str, int]:
        """Counters of a source."""
        return self.reader.counters(source)

    def results(self, source: str) -> list[dict[str, Any]]:
        """Published results in order."""
        return self.reader.results(source)

    def until(self, what: str, holds: Any) -> Any:
        """Wait for something, while the run lives."""
        found = wait_until(what, lambda: not self.alive or holds())
        assert self.alive, f"the run ended before: {what}\n{self.command.err[-3000:]}"
        return found

    def until_published(self, source: str, frames: int, epoch: int = 0) -> list[dict[str, Any]]:
        """Wait until so many frames of a later epoch than `epoch` are published; gives them."""

        def later() -> list[dict[str, Any]]:
            found = [r for r in self.results(source) if r["epoch"] > epoch]
            return found if len(found) >= frames else []

        return list(self.until(f"{frames} frames of {source} after epoch {epoch}", later))

    def until_connects(self, source: str, times: int) -> None:
        """Wait until a camera has given frames in so many connections."""
        self.until(
            f"{times} connections of {source}",
            lambda: self.counters(source).get("connects", 0) >= times,
        )

    def until_state(self, source: str, state: str, says: str = "") -> dict[str, Any]:
        """Wait until the connection stands so, with these words in its fault."""

        def stands() -> dict[str, Any] | None:
            found = self.connection(source)
            fits = found.get("state") == state and says in (found.get("fault") or "")
            return found if fits else None

        found: dict[str, Any] = self.until(f"{source} is {state} {says}", stands)
        return found

    # -- law 4

    def accounts(self, source: str) -> Accounts:
        """Counters, and frames between decode and cache, of the same moment."""
        script = """
            local at = redis.call('HGET', KEYS[2], 'p') or '0-0'
            return {redis.call('HGETALL', KEYS[1]), redis.call('XRANGE', KEYS[3], '(' .. at, '+')}
        """
        keys = [f"fg:{{{source}}}:{name}" for name in ("count", "at:cache", "out:decode")]
        flat, entries = self.reader.client.eval(script, len(keys), *keys)
        counts = {k.decode(): int(v) for k, v in zip(flat[::2], flat[1::2], strict=True)}
        kinds = [dict(zip(e[::2], e[1::2], strict=True))[b"k"] for _, e in entries]
        return Accounts(
            decoded=counts.get("decoded", 0),
            published=counts.get("published", 0),
            dropped=sum(n for name, n in counts.items() if name.startswith("dropped:")),
            in_flight=kinds.count(b"frame"),
        )

    def check_accounts(self) -> None:
        """Law 4 at this moment, for every source."""
        for source in self.sources:
            found = self.accounts(source)
            sum_of = found.published + found.dropped + found.in_flight
            assert found.decoded == sum_of, (source, found)

    def check_positions(self, source: str) -> None:
        """Ids only rise; what is missing between them was counted as dropped."""
        entries = self.reader.entries(source, "results")
        places = [(tuple(map(int, i.split("-"))), kind) for i, kind, _ in entries]
        assert [p for p, _ in places] == sorted({p for p, _ in places})
        missing, before = 0, (0, -1)
        for (epoch, seq), _ in places:
            missing += seq - before[1] - 1 if epoch == before[0] else seq
            before = (epoch, seq)
        dropped = self.accounts(source).dropped
        assert missing <= dropped, (source, missing, dropped)

    # -- secrets

    def check_secrets(self, known: Sequence[str] = (SECRET,)) -> None:
        """Law 13: what was given is in nothing that the run wrote, stored or showed."""
        for secret in known:
            forms = {secret, quote(secret)}
            forms |= {_base64_core(f"{USER}:{form}") for form in set(forms)}
            for where, data in self._said():
                held = [form for form in forms if form.encode() in data]
                assert not held, f"a password is in {where}"

    def _said(self) -> Iterator[tuple[str, bytes]]:
        """Everything that anybody could see of the run."""
        yield from _files(self.folder)
        for pid, command in _descendants(self.command.process.pid).items():
            yield f"command line of {pid}", "\0".join(command).encode()
        if self.alive:
            yield from _stored(self.reader.client)
            yield from self._pages()
            elsewhere = self.folder.with_name(f"{self.folder.name}_asked")
            elsewhere.mkdir(exist_ok=True)
            for words in (["watch", "--json", "--once"], ["sources"]):
                told = framegate(elsewhere, *words, "-d", str(self.data))
                assert told.code == 0, told.err
                yield f"framegate {words[0]}", f"{told.out}{told.err}".encode()

    def page(self, path: str) -> httpx.Response:
        """What the run's HTTP port answers."""
        found = _ADDRESS.search(self.command.err)
        assert found, self.command.err
        return httpx.get(f"{found[1]}{path}", timeout=DEADLINE_S)

    def _pages(self) -> Iterator[tuple[str, bytes]]:
        """What the run's HTTP port shows."""
        for path in ("/", "/metrics", "/healthz", "/readyz", "/api/v1/sources"):
            answer = self.page(path)
            shown = f"{answer.status_code} {answer.headers} {answer.text}"
            assert answer.status_code in (200, 503), f"{path}: {shown}"
            yield path, shown.encode()

    # -- the end

    def finish(self) -> int:
        """Check all of it, end the run by Ctrl-C, check again; gives the exit code."""
        self.check_accounts()
        self.check_secrets()
        self.command.interrupt()
        code = self.command.wait().code
        self.check_secrets()
        return code

    def close(self) -> None:
        """End it, whatever happened."""
        with contextlib.suppress(ProcessLookupError):
            self.command.process.send_signal(signal.SIGINT)
        with contextlib.suppress(AssertionError):
            self.command.wait(DEADLINE_S)
        self.command.kill()
        self.reader.close()


def _base64_core(text: str) -> str:
    """What base64 of the text holds whatever stands after it."""
    return base64.b64encode(text.encode()).decode().rstrip("=")[:-1]


def _files(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Every file of the user's folder; run.json holds the sources, for its owner alone."""
    for path in sorted(folder.rglob("*")):
        with contextlib.suppress(FileNotFoundError):
            if path.name == "run.json":
                assert stat.S_IMODE(path.stat().st_mode) == 0o600, "others may read run.json"
            elif stat.S_ISREG(path.lstat().st_mode):
                yield os.fspath(path), path.read_bytes()


def _descendants(pid: int) -> dict[int, list[str]]:
    found = children(pid)
    for child in list(found):
        found |= _descendants(child)
    return found


def _stored(client: Any) -> Iterator[tuple[str, bytes]]:
    """Every key with its whole value."""
    read = {
        b"string": client.get,
        b"hash": client.hgetall,
        b"stream": client.xrange,
        b"set": client.smembers,
        b"list": lambda key: client.lrange(key, 0, -1),
        b"zset": lambda key: client.zrange(key, 0, -1),
    }
    for key in client.scan_iter(count=1000):
        kind = client.type(key)
        if kind != b"none":
            yield f"key {key!r}", key + repr(read[kind](key)).encode()
