"""Laws 1-4 where the heavy pass is far: whatever dies of it, a file's results are as undisturbed.

A file is run with a promise, its questions answered by heavy workers or a KServe server; these, the
store between, or the stage that asks are killed while a question is in hand.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import msgspec
import pytest
import redis

from framegate.pipeline.contracts import keys
from framegate.pipeline.contracts.records import Position
from framegate.pipeline.heavy.queue import GROUP
from framegate.pipeline.promise.certificate import Certificate
from framegate.pipeline.store.embedded import EmbeddedStore
from tests.support.footage import bikes
from tests.support.kserve.servers import mlserver
from tests.support.runs import Run, environment, published_in, said, wait_until

pytestmark = pytest.mark.long

SOURCE = "clip"
FRAMES = 120
MOVED = Position(1, 20)  # a kill comes after this frame

needs_kserve = pytest.mark.skipif(
    importlib.util.find_spec("tritonclient") is None, reason="the extra kserve is not installed"
)


@dataclass(frozen=True)
class Told:
    """All that a run said of its file: results, how each came about, and by name what is kept of
    its promise: certificates and declarations.
    """

    results: list[Any]
    escalations: list[str]
    certificates: dict[str, bytes]


def told_by(folder: Path) -> Told:
    """Law 4 is closed on the way, and every frame is there once, in order."""
    found = published_in(folder, [SOURCE])[SOURCE]
    epoch = found.positions[0].epoch
    assert found.positions == [Position(epoch, seq) for seq in range(len(found.positions))]
    assert found.ended
    files = sorted((folder / "certificates").glob("*.json"))
    return Told(
        said(found.results),
        [result.escalation for result in found.results],
        {path.name: path.read_bytes() for path in files},
    )


def beginning(path: Path) -> Path:
    """The first packets of a clip of real life."""
    source = bikes()
    assert source is not None
    with av.open(str(source)) as whole, av.open(str(path), "w") as part:
        video = whole.streams.video[0]
        stream = part.add_stream_from_template(video)
        for packet in itertools.islice(whole.demux(video), FRAMES):
            packet.stream = stream
            part.mux(packet)
    return path


@contextmanager
def asking(folder: Path, place: str, url: str | None) -> Iterator[Run]:
    """A run of a clip with the same coins as all others here."""
    folder.mkdir()
    clip = beginning(folder / "clip.mp4")
    data = folder / "data"
    data.mkdir()
    (data / "lock").touch()  # a folder without one that holds what a run makes is not ours
    (data / "promise.secret").write_bytes(bytes(32))
    where = f'place = "{place}"\n' + ("" if url is None else f'url = "{url}"\n')
    # All classes, so that much is in doubt; no alarm, as to ask about all takes minutes.
    (folder / "far.toml").write_text(
        f"[escalate]\n{where}per_s = 0.3\n"
        '[promise]\nmeasure = "counts"\naudited = 0.05\nframes = 50\nalpha = 0.5\n'
        '[stages.detect]\nclasses = "all"\n',
        encoding="utf-8",
    )
    run = Run(data, "-c", str(folder / "far.toml"), f"{SOURCE}={clip}")
    try:
        yield run
    finally:
        run.kill()


class Worker:
    """`framegate worker --heavy`, which can be killed and begun again."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.begin()

    def begin(self) -> None:
        words = [
            "-m",
            "framegate.cli",
            "worker",
            "--heavy",
            "--threads",
            "1",
            "--redis",
            self._url,
        ]
        self._process = subprocess.Popen(
            [sys.executable, *words], env=environment(), stderr=subprocess.DEVNULL
        )

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


@contextmanager
def worker_at(url: str) -> Iterator[Worker]:
    wait_until("the store", lambda: connected(url, lambda client: client.ping()))
    worker = Worker(url)
    try:
        yield worker
    finally:
        worker.kill()


def connected(url: str, what: Any) -> Any:
    client: Any = redis.Redis.from_url(url, protocol=2)
    with client:
        return what(client)


def is_in_hand(url: str) -> bool:
    """Whether a worker took a question and has not replied."""

    def pending(client: Any) -> int:
        with contextlib.suppress(redis.ResponseError):  # no worker has joined yet
            return int(client.xpending(keys.HEAVY_ASKS, GROUP)["pending"])
        return 0

    return bool(connected(url, pending) > 0)


def is_gone(run: Run, pid: int) -> bool:
    return run.worker("shard-1") not in (None, pid)


def until_moved(run: Run, past: Position = MOVED) -> Position:
    """Where results then are."""

    def moved() -> Position | None:
        at = run.positions(SOURCE, ["cache"])["cache"]
        return at if at > past else None

    found: Position = wait_until("results", moved)
    return found


def ends(run: Run) -> Told:
    assert run.wait() == 0, run.log.read_text(encoding="utf-8")
    return told_by(run.folder)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Told:
    """With workers. A KServe server that has the same model says the same."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with asking(folder / "run", "workers", None) as run, worker_at(run.url):
        told = ends(run)
    assert len(told.results) == FRAMES
    assert told.escalations.count("done") >= 5
    closed = {name: of for name, of in told.certificates.items() if "declared" not in name}
    assert {name.replace(".json", ".declared.json") for name in closed} <= set(told.certificates)
    found = [msgspec.json.decode(data, type=Certificate) for data in closed.values()]
    assert len(found) >= 2
    assert sum(one.drawn for one in found) >= 5
    return told


def test_a_heavy_worker_is_killed_with_a_question_in_hand(
    tmp_path: Path, undisturbed: Told
) -> None:
    with asking(tmp_path / "run", "workers", None) as run, worker_at(run.url) as worker:
        until_moved(run)
        wait_until("a question is in hand", lambda: is_in_hand(run.url))
        worker.kill()
        worker.begin()
        assert ends(run) == undisturbed


def test_the_stage_that_asks_is_killed_with_questions_under_way(
    tmp_path: Path, undisturbed: Told
) -> None:
    with asking(tmp_path / "run", "workers", None) as run, worker_at(run.url):
        until_moved(run)
        for _ in range(3):
            wait_until("a question is in hand", lambda: is_in_hand(run.url))
            pid = wait_until("a worker of the run", lambda: run.worker("shard-1"))
            os.kill(pid, signal.SIGKILL)
            wait_until("it is gone", functools.partial(is_gone, run, pid))
        assert ends(run) == undisturbed


def test_the_store_of_the_run_and_of_its_questions_is_killed(
    tmp_path: Path, undisturbed: Told
) -> None:
    with asking(tmp_path / "run", "workers", None) as run, worker_at(run.url):
        at = MOVED
        for _ in range(2):
            at = until_moved(run, at)  # one that is not up again yet is not killed
            wait_until("a question is in hand", lambda: is_in_hand(run.url))
            os.kill(wait_until("a server", run.valkey), signal.SIGKILL)
        assert ends(run) == undisturbed


def test_a_store_between_is_killed_and_is_away_for_a_while(
    tmp_path: Path, undisturbed: Told
) -> None:
    between = EmbeddedStore(tmp_path / "between", "everysec")
    between.start()
    with ExitStack() as stack:
        stack.callback(between.stop)
        stack.enter_context(worker_at(between.url))
        run = stack.enter_context(asking(tmp_path / "run", "workers", between.url))
        until_moved(run)
        wait_until("a question is in hand", lambda: is_in_hand(between.url))
        between.kill()
        wait_until("it is missed", lambda: "no answers from" in run.log.read_text(encoding="utf-8"))
        between.start()
        assert ends(run) == undisturbed


@needs_kserve
@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_a_kserve_server_is_killed_and_is_away_for_a_while(
    tmp_path: Path, undisturbed: Told, scheme: str
) -> None:
    with ExitStack() as stack:
        first = stack.enter_context(mlserver(tmp_path / "first", told=False))
        url = first.http if scheme == "http" else first.grpc
        run = stack.enter_context(asking(tmp_path / "run", "kserve", url))
        until_moved(run)
        first.process.kill()
        first.process.wait()
        wait_until("it is missed", lambda: "no answers from" in run.log.read_text(encoding="utf-8"))
        http, grpc = (int(at.rpartition(":")[2]) for at in (first.http, first.grpc))
        stack.enter_context(mlserver(tmp_path / "second", told=False, ports=(http, grpc)))
        assert ends(run) == undisturbed
