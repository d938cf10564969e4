"""What the HTTP process knows, while others hang."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from framegate.pipeline.contracts.errors import StoreLost
from framegate.pipeline.engine import control_messages
from framegate.pipeline.engine.control_line import ControlLine
from framegate.pipeline.engine.control_messages import Call, GetStatus, reply_of
from framegate.pipeline.telemetry.run_status import RunStatus, SourceStatus
from framegate.pipeline.web.pictures.frames import FrameViews
from framegate.pipeline.web.run_reader import RunReader
from framegate.pipeline.web.server import routes
from tests.support.runs import DEADLINE_S
from tests.support.web_server import get, serving

STATUS = RunStatus(
    run="r",
    draining=False,
    unready=[],
    workers=[],
    sources=[SourceStatus("a", "a.mp4", False, 0, 4, 4, 0)],
    times={},
)


def supervise(end: socket.socket) -> None:
    """Tell the status whenever it is wanted, until the other side hangs up."""
    while (message := control_messages.receive_from_child(end)) is not None:
        assert isinstance(message, Call)
        assert message.request == GetStatus()
        control_messages.send(end, reply_of(message.number, STATUS))


@contextmanager
def reader(folder: Path) -> Iterator[tuple[RunReader, socket.socket]]:
    """A reader of a run whose store takes connections and says nothing."""
    ours, theirs = control_messages.make_pair()
    supervisor = threading.Thread(target=supervise, args=(ours,))
    supervisor.start()
    line = ControlLine(theirs)
    with socket.socket(socket.AF_UNIX) as store:
        store.bind(str(folder / "store"))
        store.listen(128)
        yield RunReader(line, f"unix://{folder / 'store'}", FrameViews(line)), store
    theirs.shutdown(socket.SHUT_RDWR)
    supervisor.join(DEADLINE_S)
    ours.close()


def test_health_is_told_while_the_store_hangs(tmp_path: Path) -> None:
    with reader(tmp_path) as (run, store):
        lost: list[StoreLost] = []

        def look() -> None:
            try:
                run.views()
            except StoreLost as error:
                lost.append(error)

        looking = threading.Thread(target=look)
        looking.start()
        hanging, _ = store.accept()
        assert run.status() == STATUS
        assert looking.is_alive()  # it has no answer yet, and held nobody up
        hanging.close()
    looking.join(DEADLINE_S)
    assert lost


def test_who_asks_whether_it_is_ready_takes_neither_threads_nor_connections(tmp_path: Path) -> None:
    """That needs no token, so anybody may ask as often as there are connections."""

    def alive(request: Request) -> Response:
        del request
        return PlainTextResponse("alive\n")

    with reader(tmp_path) as (run, store), ExitStack() as stack:
        port = stack.enter_context(serving([*routes(run), Route("/alive", alive)]))
        strangers = []
        for _ in range(60):
            stranger = socket.create_connection(("127.0.0.1", port), DEADLINE_S)
            strangers.append(stack.enter_context(stranger))
            stranger.sendall(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        hanging = [store.accept()[0]]
        assert get(port, "/alive").status == 200
        store.settimeout(0.0)
        with suppress(BlockingIOError):
            while True:
                hanging.append(store.accept()[0])
        n_connections = len(hanging)
        for connection in hanging:
            connection.close()
        store.close()
        assert {stranger.recv(12) for stranger in strangers} == {b"HTTP/1.1 503"}
    assert n_connections < 10
