"""A newer Framegate's records are refused by every reader, whatever their shape; older are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from framegate import subscribe
from framegate.pipeline.contracts import keys, records
from framegate.pipeline.contracts.errors import RecordTooNew
from framegate.pipeline.contracts.records import VERSION, Connection, End, Position, Record
from framegate.pipeline.contracts.results import Result
from framegate.pipeline.contracts.source import Form
from framegate.pipeline.contracts.spec import StageSpec
from framegate.pipeline.engine.stream_entries import read_entry
from framegate.pipeline.store.embedded import EmbeddedStore
from framegate.pipeline.telemetry.source_view import Viewer
from tests.support.published import Publisher, result
from tests.support.servers import server

RECORD = Record(VERSION, 0.5, 1.0, 2.0, 3, Form(64, 48))
MADE: list[Any] = [
    RECORD,
    End(VERSION, 7, last=True),
    Connection(VERSION, "connected", 1.0),
    result("gate", 1, 0),
]


def read(data: bytes, kind: type[Any]) -> Any:
    return records.decode_record(data) if kind is Record else records.decode_versioned(data, kind)


def newer(made: Any) -> bytes:
    return records.encode(msgspec.structs.replace(made, v=VERSION + 1))


@pytest.mark.parametrize("made", MADE, ids=lambda made: type(made).__name__)
def test_up_to_our_own_version_is_read_and_a_newer_one_refused(made: Any) -> None:
    kind = type(made)
    assert read(records.encode(made), kind) == made
    assert read(records.encode(msgspec.structs.replace(made, v=VERSION - 1)), kind).v == VERSION - 1
    with pytest.raises(RecordTooNew, match=f"record version {VERSION + 1} "):
        read(newer(made), kind)
    with pytest.raises(RecordTooNew):
        read(records.encode({"v": VERSION + 1, "shape": "another"}), kind)


def test_what_is_damaged_is_not_called_new() -> None:
    with pytest.raises(msgspec.ValidationError):
        records.decode_versioned(records.encode({"v": VERSION}), Result)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[EmbeddedStore]:
    """One whose only result is of a newer Framegate."""
    with server(tmp_path / "store") as running, closing(Publisher(running).client) as client:
        client.hset(keys.SOURCES, "gate", "a run")
        client.xadd(keys.results("gate"), {"k": "frame", "d": newer(MADE[-1])}, id="1-0")
        yield running


def by_subscription(url: str) -> None:
    with subscribe(url, start="earliest") as results:
        next(results)


def in_a_group(url: str) -> None:
    with subscribe(url, start="earliest", group="g", consumer="c") as results:
        next(results)


def by_watch(url: str) -> None:
    with closing(Viewer(url)) as viewer:
        viewer.look(["gate"])


@pytest.mark.parametrize("reader", [by_subscription, in_a_group, by_watch])
def test_a_reader_of_results_refuses_it(
    reader: Callable[[str], None], store: EmbeddedStore
) -> None:
    with pytest.raises(RecordTooNew):
        reader(store.url)


def test_what_a_side_stage_said_is_read_with_its_frame() -> None:
    """A reader misses only what the stage gave since the reader's last entry."""
    said = msgspec.Raw(records.encode({"people": 3}))
    full = records.side_output(RECORD, Position(1, 4), said)
    writer = StageSpec("zone", "", "cache", main=False, reliable=True, publishes=False)
    arrival = read_entry([b"1-9", [b"k", b"frame", b"d", records.encode(full)]], writer)
    record = arrival.record
    assert isinstance(record, Record)
    assert (record.pts, record.dropped, record.said) == (RECORD.pts, 4, {"zone": said})
    other = records.record_of_side_output(full, "zone", Position(2, 3))
    assert other.dropped == 3


@pytest.mark.parametrize(
    ("publishes", "kind", "made"),
    [(False, b"frame", RECORD), (False, b"end", MADE[1]), (True, b"frame", MADE[-1])],
)
def test_a_stage_refuses_it(publishes: bool, kind: bytes, made: Any) -> None:
    writer = StageSpec("before", "", None, main=True, reliable=True, publishes=publishes)
    with pytest.raises(RecordTooNew):
        read_entry([b"1-0", [b"k", kind, b"d", newer(made)]], writer)
