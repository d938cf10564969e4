"""What the HTTP process knows, while others hang."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import redis
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from framegate.pipeline.contracts import keys, records
from framegate.pipeline.contracts.errors import StoreLost
from framegate.pipeline.contracts.records import VERSION, Connection
from framegate.pipeline.engine import control_messages
from framegate.pipeline.engine.control_line import ControlLine
from framegate.pipeline.engine.control_messages import Call, GetStatus, reply_of
from framegate.pipeline.fleet.fleet_store import FleetStore
from framegate.pipeline.fleet.plan import FleetPlan, FleetSource, SlotRoom
from framegate.pipeline.telemetry.run_status import RunStatus, SourceStatus
from framegate.pipeline.web.fleet.fleet import Fleet
from framegate.pipeline.web.fleet.forward import Forwarder
from framegate.pipeline.web.pictures.frames import FrameViews
from framegate.pipeline.web.run_reader import RunReader
from framegate.pipeline.web.server import routes
from tests.support.runs import DEADLINE_S, wait_until
from tests.support.servers import server
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
def supervised() -> Iterator[ControlLine]:
    """The line to a supervisor."""
    ours, theirs = control_messages.make_pair()
    supervisor = threading.Thread(target=supervise, args=(ours,))
    supervisor.start()
    try:
        yield ControlLine(theirs)
    finally:
        theirs.shutdown(socket.SHUT_RDWR)
        supervisor.join(DEADLINE_S)
        ours.close()


@contextmanager
def reader(folder: Path) -> Iterator[tuple[RunReader, socket.socket]]:
    """A reader of a run whose store takes connections and says nothing."""
    with supervised() as line, socket.socket(socket.AF_UNIX) as store:
        store.bind(str(folder / "store"))
        store.listen(128)
        yield RunReader(line, f"unix://{folder / 'store'}", FrameViews(line)), store


def test_cameras_of_other_slots_count_as_watched(tmp_path: Path) -> None:
    """Otherwise, a slot answers that nothing was missed while they are away."""
    with (
        server(tmp_path) as store,
        redis.Redis.from_url(store.url) as client,
        supervised() as line,
    ):
        sources = {name: FleetSource({}, 0.5, "b") for name in ("gate", "clip")}
        sources["a"] = FleetSource({}, 0.5, "a")
        with closing(FleetStore(store.url)) as fleet:
            fleet.write(FleetPlan(1, dict.fromkeys("ab", SlotRoom(2.0)), sources))
        away = Connection(VERSION, "lost", 7.0)
        client.hset(keys.at("gate", "decode"), "c", records.encode(away))
        run = RunReader(line, store.url, FrameViews(line), fleet=Fleet(store.url, "a", Forwarder()))
        assert list(run.drops()) == ["gate"]


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


def test_metrics_and_readyz_agree_while_the_store_takes_no_writes(tmp_path: Path) -> None:
    """Else no alert says that a full disk stopped the results."""
    with (
        server(tmp_path) as store,
        redis.Redis.from_url(store.url) as client,
        supervised() as line,
    ):
        run = RunReader(line, store.url, FrameViews(line))
        client.config_set("save", "3600 1")
        client.config_set("stop-writes-on-bgsave-error", "yes")
        snapshot = Path(
            client.config_get("dir")["dir"], client.config_get("dbfilename")["dbfilename"]
        )
        snapshot.mkdir()  # a file cannot replace it
        client.bgsave()
        wait_until(
            "the snapshot fails",
            lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err",
        )
        (why,) = run.unready()
        assert "takes no writes" in why
        assert ready(run) == 0
        client.config_set("stop-writes-on-bgsave-error", "no")
        wait_until("the store is asked again", lambda: not run.unready())
        assert ready(run) == 1


def ready(run: RunReader) -> float:
    """The metric."""
    (value,) = (
        sample.value
        for metric in run.scrape().collect()
        for sample in metric.samples
        if sample.name == "framegate_ready"
    )
    return value
