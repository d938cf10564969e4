"""The HTTP port under load: it answers health, and nothing of it grows without bound."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from framegate.pipeline.contracts.errors import Exit
from framegate.pipeline.recording.index_tables import FOLDER
from framegate.pipeline.store.embedded import EmbeddedStore
from framegate.pipeline.system.loading import load_builtin
from framegate.pipeline.web.api import api_routes
from framegate.pipeline.web.control.rules import rule_routes
from framegate.pipeline.web.limits import AtOnce, Refusal, Streamed, WebLimits, posted, refused
from framegate.pipeline.web.pictures.frames import LastFrames
from framegate.pipeline.web.pictures.picture_routes import picture_routes
from framegate.pipeline.web.recordings.recordings import recording_routes
from framegate.stages.draw.pictures import as_jpeg
from tests.support.footage import steady, write_scene
from tests.support.own_servers import free_port
from tests.support.recorded import record, segments, write_both
from tests.support.runs import DEADLINE_S, Run, wait_until
from tests.support.studio import KNOWN, Studio
from tests.support.web_server import get, opened, serving

STRANGERS = 1400
DESCRIPTORS = 256


def alive(request: Request) -> Response:
    del request
    return PlainTextResponse("alive\n")


HEALTH = Route("/healthz", alive)


@contextmanager
def connected(port: int, count: int) -> Iterator[list[socket.socket]]:
    """So many connections, in the order in which the server accepts them."""
    with ExitStack() as stack:
        yield [
            stack.enter_context(socket.create_connection(("127.0.0.1", port), DEADLINE_S))
            for _ in range(count)
        ]


def asked(port: int, path: str, receive_bytes: int = 1 << 16) -> socket.socket:
    """A connection that has sent a request, and will read as little as it can."""
    line = socket.socket()
    line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    line.settimeout(DEADLINE_S)
    line.connect(("127.0.0.1", port))
    line.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    return line


def is_closed(line: socket.socket) -> bool:
    """Read until the server closes the connection."""
    with contextlib.suppress(ConnectionError):
        while line.recv(1 << 16):
            pass
    return True


def n_bytes(port: int, path: str) -> int:
    """Bytes of a whole answer; -1 if the server ended it, as this busy machine took it slowly."""
    try:
        return len(get(port, path).content)
    except (HTTPException, ConnectionError):
        return -1


@pytest.mark.parametrize("begun", [b"", b"GET / HTTP/1.1\r\nHost: local"])
def test_who_does_not_ask_in_time_is_sent_away(begun: bytes) -> None:
    with serving([HEALTH], WebLimits(ask_s=0.3)) as port, connected(port, 1) as (line,):
        line.sendall(begun)
        assert is_closed(line)


def test_who_asks_nothing_more_is_sent_away() -> None:
    with serving([HEALTH], WebLimits(ask_s=1.0)) as port, asked(port, "/healthz") as line:
        assert line.recv(12) == b"HTTP/1.1 200"
        assert is_closed(line)


def test_a_body_that_comes_too_slowly_is_refused() -> None:
    async def take(request: Request) -> Response:
        try:
            return PlainTextResponse(str(await posted(request, list[int], 100, body_s=0.2)))
        except Refusal as error:
            return refused(error)

    with serving([Route("/take", take, methods=["POST"])]) as port:
        with connected(port, 1) as (line,):
            head = "Host: localhost\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n"
            line.sendall(f"POST /take HTTP/1.1\r\n{head}[1, 2".encode())
            assert line.recv(12) == b"HTTP/1.1 408"
        assert httpx.post(f"http://127.0.0.1:{port}/take", json=[1, 2]).text == "[1, 2]"


@pytest.mark.parametrize(
    ("origin", "body", "status"),
    [
        ("http://[", b"[1]", 403),
        ("", b'["\xff"]', 400),
        ("", b"[" * 100_000, 400),
        ("", b"[1", 400),
    ],
)
def test_an_origin_or_a_body_that_cannot_be_read_is_refused(
    origin: str, body: bytes, status: int
) -> None:
    async def take(request: Request) -> Response:
        try:
            return PlainTextResponse(str(await posted(request, list[Any], 1 << 20)))
        except Refusal as error:
            return refused(error)

    headers = {"Content-Type": "application/json"}
    if origin:
        headers["Origin"] = origin
    with serving([Route("/take", take, methods=["POST"])]) as port:
        address = f"http://127.0.0.1:{port}/take"
        assert httpx.post(address, content=body, headers=headers).status_code == status


def test_a_newcomer_takes_the_place_of_who_is_idle_longest_and_of_nobody_else() -> None:
    more = threading.Event()

    async def parts() -> AsyncIterator[bytes]:
        yield b"begun;"
        while not more.is_set():
            await asyncio.sleep(0.01)
        yield b"ended;"

    async def stream(request: Request) -> Response:
        del request
        return Streamed(parts(), "text/plain", ExitStack())

    routes = [HEALTH, Route("/stream", stream)]
    with serving(routes, WebLimits(connections=8, requests=6)) as port:
        watching, answer = opened(port, "/stream")
        assert answer.read(6) == b"begun;"
        with connected(port, 40) as strangers:
            assert get(port, "/healthz").status == 200
            assert is_closed(strangers[0])
            more.set()
            assert answer.read() == b"ended;"
        watching.close()


def test_requests_at_once_are_bounded_and_health_is_answered_beyond() -> None:
    held, begun = threading.Event(), threading.Semaphore(0)

    def wait(request: Request) -> Response:
        begun.release()
        held.wait(DEADLINE_S)
        return alive(request)

    routes = [HEALTH, Route("/wait", wait)]
    with (
        serving(routes, WebLimits(connections=8, requests=2)) as port,
        ThreadPoolExecutor() as pool,
    ):
        waiting = [pool.submit(get, port, "/wait") for _ in range(2)]
        for _ in waiting:
            begun.acquire(timeout=DEADLINE_S)
        beyond = get(port, "/wait")
        assert (beyond.status, beyond.headers["retry-after"]) == (503, "1")
        assert get(port, "/healthz").status == 200
        held.set()
        assert [answer.result().status for answer in waiting] == [200, 200]


def test_an_answer_that_nobody_takes_is_ended_and_its_place_is_free() -> None:
    def much(request: Request) -> Response:
        del request
        return PlainTextResponse("x" * (16 << 20))

    routes = [HEALTH, Route("/much", much)]
    with serving(routes, WebLimits(requests=1, take_s=0.3)) as port, asked(port, "/much", 4096):
        assert get(port, "/healthz").status == 200
        wait_until("the place is free", lambda: n_bytes(port, "/much") == 16 << 20)


# -- Streams, clips and trials, as they are served.


_LIVE = "/live?sources=door"


def test_streams_of_events_and_of_pictures_share_their_places(
    store: EmbeddedStore, studio: Studio, frames: LastFrames
) -> None:
    """All ask at once: what is counted is what is given."""
    studio.show(0)
    most, each = 8, 10
    places = AtOnce(most, "streams")
    routes = [
        *api_routes(store.url, lambda: list(KNOWN), streams=places),
        *picture_routes(frames, as_jpeg, lambda: KNOWN, places),
    ]
    paths = (
        "/api/v1/results/stream",
        "/api/v1/episodes/live",
        "/stream/door.mjpg",
        "/live?sources=door",
    )
    with serving(routes) as port, ExitStack() as stack:
        lines = [stack.enter_context(asked(port, path)) for _ in range(each) for path in paths]
        heads = [line.recv(12) for line in lines]
        assert heads.count(b"HTTP/1.1 200") == most
        assert heads.count(b"HTTP/1.1 503") == len(lines) - most
        for line in lines:
            line.close()

        def has_room() -> bool:
            with asked(port, _LIVE) as line:
                return line.recv(12) == b"HTTP/1.1 200"

        wait_until("who left made room", has_room)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recorded")
    record(folder / "data", write_both(folder / "gate.mp4", 2.0))
    return folder / "data"


def temporary(data: Path) -> list[Path]:
    return list((data / FOLDER).glob(".clip-*"))


def test_clips_that_nobody_takes_are_bounded_and_go(recorded: Path) -> None:
    first = segments(recorded)[0]
    path = f"/api/v1/recordings/gate/clip.mp4?from={first.captured}&to={first.captured + 60}"
    writes = load_builtin("write_clip")

    def padded(folder: Path, part: Any, clip: Path, *words: Any) -> None:
        """The clip and what exceeds any socket's buffers."""
        writes(folder, part, clip, *words)
        with clip.open("ab") as file:
            file.truncate(16 << 20)

    limits = WebLimits(clips=2, take_s=0.5)
    routes = recording_routes(recorded, padded, None, limits)
    with serving(routes, limits) as port, ExitStack() as stack:
        lines = [stack.enter_context(asked(port, path, 4096)) for _ in range(8)]
        heads = [line.recv(12) for line in lines]
        assert heads.count(b"HTTP/1.1 200") == 2
        assert heads.count(b"HTTP/1.1 503") == 6
        assert len(temporary(recorded)) <= 2
        wait_until("what nobody takes is removed", lambda: not temporary(recorded))
        wait_until("another one is given", lambda: n_bytes(port, path) == 16 << 20)
    assert temporary(recorded) == []


def test_a_clip_takes_no_room_that_recordings_leave_free(recorded: Path) -> None:
    first = segments(recorded)[0]
    path = f"/api/v1/recordings/gate/clip.mp4?from={first.captured}&to={first.captured + 60}"
    there = os.statvfs(recorded)
    routes = recording_routes(
        recorded, load_builtin("write_clip"), free_bytes=there.f_blocks * there.f_frsize
    )
    with serving(routes) as port:
        answer = get(port, path)
    assert answer.status == 503
    assert "the disk has no room for a clip" in answer.text
    assert temporary(recorded) == []


def test_one_trial_of_rules_at_once(store: EmbeddedStore) -> None:
    held, begun = threading.Event(), threading.Event()

    def sources() -> list[str]:
        begun.set()
        held.wait(DEADLINE_S)
        return ["door"]

    line = {"middle": {"points": [[0.5, 0.0], [0.5, 1.0]]}}
    body = msgspec.json.encode(
        {"events": {"lines": line, "rules": {"passing": {"when": "crosses", "line": "middle"}}}}
    )
    routes = [HEALTH, *rule_routes(store.url, sources)]
    with serving(routes) as port, ThreadPoolExecutor() as pool:
        headers = {"Content-Type": "application/json"}
        url = f"http://127.0.0.1:{port}/api/v1/rules/trial"
        send: Callable[[], httpx.Response] = lambda: httpx.post(  # noqa: E731
            url, content=body, headers=headers, timeout=DEADLINE_S
        )
        first = pool.submit(send)
        assert begun.wait(DEADLINE_S)
        others = [send() for _ in range(3)]
        assert {other.status_code for other in others} == {503}
        assert get(port, "/healthz").status == 200
        held.set()
        assert first.result().status_code == 200


# -- The process of a run.


@contextmanager
def more_files(count: int) -> Iterator[None]:
    """Let this process have so many files open, as far as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(count, hard)), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_strangers_that_say_nothing_neither_silence_health_nor_fill_the_log(
    tmp_path: Path,
) -> None:
    """There are more of them than files that the process may have open."""
    port = free_port()
    clip = write_scene(tmp_path / "short.mp4", steady(20))
    off = f"off=rtsp://127.0.0.1:{free_port()}/gate"
    run = Run(tmp_path / "data", f"short={clip}", off, "--http", f"127.0.0.1:{port}")
    resource.prlimit(run.process.pid, resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))
    health = f"http://127.0.0.1:{port}/healthz"
    try:
        wait_until("the run listens", lambda: _answers(health))
        with more_files(2 * STRANGERS), connected(port, STRANGERS):
            for _ in range(20):
                assert httpx.get(health, timeout=DEADLINE_S).text == "alive\n"
            assert (
                httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=DEADLINE_S).status_code == 200
            )
        run.process.send_signal(signal.SIGINT)
        assert run.wait() == Exit.DONE
    finally:
        run.kill()
    said = run.log.read_text(encoding="utf-8")
    assert "out of system resource" not in said
    assert len(said.splitlines()) < 60, said[-4000:]


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=DEADLINE_S).status_code == 200
    except httpx.TransportError:
        return False
