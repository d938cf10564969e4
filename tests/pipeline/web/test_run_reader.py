"""What the HTTP process knows, while others hang."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

from framegate.pipeline.engine import control
from framegate.pipeline.engine.control import Call, ControlLine, GetStatus, reply_of
from framegate.pipeline.errors import StoreLost
from framegate.pipeline.telemetry.counters import RunStatus, SourceStatus
from framegate.pipeline.web.frames import FrameViews
from framegate.pipeline.web.server import RunReader
from tests.support.runs import DEADLINE_S

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
    while (message := control.receive_from_child(end)) is not None:
        assert isinstance(message, Call)
        assert message.request == GetStatus()
        control.send(end, reply_of(message.number, STATUS))


def test_health_is_told_while_the_store_hangs(tmp_path: Path) -> None:
    ours, theirs = control.make_pair()
    supervisor = threading.Thread(target=supervise, args=(ours,))
    supervisor.start()
    line = ControlLine(theirs)
    with socket.socket(socket.AF_UNIX) as store:
        store.bind(str(tmp_path / "store"))
        store.listen()
        run = RunReader(line, f"unix://{tmp_path / 'store'}", FrameViews(line))
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
    theirs.shutdown(socket.SHUT_RDWR)
    supervisor.join(DEADLINE_S)
    ours.close()
