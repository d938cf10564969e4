"""The whole HTTP port of a run with two sources, without the run."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from starlette.applications import Starlette

from framegate.pipeline.contracts.errors import RequestRefused
from framegate.pipeline.contracts.object_filters import FilterRequest, ObjectFilter
from framegate.pipeline.contracts.records import START, Position
from framegate.pipeline.contracts.results import Object
from framegate.pipeline.contracts.visits import VisitEntry
from framegate.pipeline.engine import control_messages
from framegate.pipeline.engine.control_line import ControlLine
from framegate.pipeline.engine.control_messages import Call, CallReply, GetStatus, reply_of
from framegate.pipeline.fleet.recording_places import note_places
from framegate.pipeline.recording.changed_parts import PART_BYTES
from framegate.pipeline.recording.changed_parts_writer import ChangedPartsWriter
from framegate.pipeline.review.event_database import FILE
from framegate.pipeline.review.projection import Projection, Watched
from framegate.pipeline.store.embedded import EmbeddedStore
from framegate.pipeline.system.loading import BUILTINS
from framegate.pipeline.telemetry.run_status import RunStatus, SourceStatus
from framegate.pipeline.web.accounts.sessions import Sessions
from framegate.pipeline.web.limits import LIMITS
from framegate.pipeline.web.port import WebSpec
from framegate.pipeline.web.server import make_app
from tests.support.live_config import AnsweringConfig
from tests.support.recorded import record, write_both
from tests.support.run_filters import RunFilters
from tests.support.runs import DEADLINE_S
from tests.support.said import BEGAN, Sayer, change, visit

SOURCES = ("attic", "door")


def fill(store: EmbeddedStore, folder: Path) -> None:
    """Write for each source: results, episodes, a visit, a recording and changed parts."""
    film = write_both(folder / "film.mp4", 1.0)
    sayer = Sayer(store)
    parts = ChangedPartsWriter(folder, 1 << 30)
    projection_entries = []
    for source in SOURCES:
        seen = Object(10, "person", 0, 0.9, (6.4, 4.8, 12.8, 48.0), "detected")
        for seq in range(8, 17):
            sayer.publish(source, seq, objects=(seen,))
            parts.keep(source, Position(1, seq), BEGAN + seq, (640, 360), b"\x80" * PART_BYTES)
        sayer.say(source, 10, change("start", 10, 10, source))
        sayer.say(source, 15, change("end", 10, 15, source))
        sayer.say(source, 16, unknown=("visitor",))
        report = {"rule": "camera", "when": "state", "label": "motion", "tracks": ()}
        ended = change("end", 18, 20, source, **report)
        sayer.say(source, 20, change("start", 18, 18, source, **report), ended)
        there = visit(10, 15, 10, source)
        projection_entries.append(VisitEntry(source, Position(1, 50), START, (there,)))
        record(folder, film, source)
    parts.close()
    note_places(store.url, "box1", str(folder), "", {})
    with closing(Projection(folder / FILE)) as projection:
        projection.take(sayer.said())
        projection.take(projection_entries)
        projection.watch([Watched(source, 1, BEGAN, BEGAN + 3600) for source in SOURCES])
    sayer.client.close()


@contextmanager
def whole_port(
    store: EmbeddedStore, folder: Path, sessions: Sessions | None = None
) -> Iterator[Starlette]:
    """The application with all routes. Its supervisor knows two sources."""
    filters = RunFilters(*SOURCES, specks=ObjectFilter(sources=SOURCES, min_height=0.05))
    filters.configured["attic_only"] = ObjectFilter(sources=("attic",), min_height=0.05)
    file = folder / "pipeline.toml"
    file.write_text("", encoding="utf-8")
    config = AnsweringConfig(file)

    def supervise(end: socket.socket) -> None:
        while (message := control_messages.receive_from_child(end)) is not None:
            assert isinstance(message, Call)
            asked = message.request
            try:
                if isinstance(asked, GetStatus):
                    reply = reply_of(message.number, STATUS)
                elif isinstance(asked, FilterRequest):
                    reply = reply_of(message.number, filters.ask(asked))
                else:
                    reply = reply_of(message.number, config.ask(asked))  # type: ignore[arg-type]
            except RequestRefused as error:
                reply = CallReply(message.number, fault=str(error))
            control_messages.send(end, reply)

    ours, theirs = control_messages.make_pair()
    supervisor = threading.Thread(target=supervise, args=(ours,))
    supervisor.start()
    spec = WebSpec(store.url, str(folder), BUILTINS["pictures"], "WARNING", "text")
    try:
        yield make_app(ControlLine(theirs), spec, asyncio.Event(), LIMITS, sessions)
    finally:
        theirs.shutdown(socket.SHUT_RDWR)
        supervisor.join(DEADLINE_S)
        ours.close()


STATUS = RunStatus(
    run="r",
    draining=False,
    unready=[],
    workers=[],
    sources=[SourceStatus(source, f"{source}.mp4", False, 0, 4, 4, 0) for source in SOURCES],
    times={},
)
