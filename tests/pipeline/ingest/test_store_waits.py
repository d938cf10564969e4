"""What an ingest worker waits for from the store: many sources' waits over few connections."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from framegate.pipeline.contracts.records import START, Position
from framegate.pipeline.contracts.spec import TRAIL_FRAMES
from framegate.pipeline.ingest.store_waits import (
    EpochGiven,
    EpochRefused,
    EpochRequests,
    Rooms,
    trail_of,
)
from framegate.pipeline.store.admin import StoreAdmin
from framegate.pipeline.store.embedded import EmbeddedStore
from framegate.pipeline.store.hop import (
    Attached,
    Commit,
    CommitStatus,
    SourceHop,
    attach_command,
    hop_command,
    read_attached,
)
from framegate.pipeline.store.worker_connections import Link, readable
from tests.support.runs import DEADLINE_S
from tests.support.servers import server

RUN = "the-run"
READERS = ("cache", "save")
AT = Position(1, 3)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedStore]:
    with server(tmp_path_factory.mktemp("store")) as store:
        yield store


@pytest.fixture
def store(running: EmbeddedStore) -> Iterator[StoreAdmin]:
    opened = StoreAdmin(running.url)
    opened.prepare()
    yield opened
    opened.close()


@pytest.fixture
def link(running: EmbeddedStore) -> Iterator[Link]:
    opened = Link(running.url)
    yield opened
    opened.close()


@pytest.fixture
def apart(running: EmbeddedStore) -> Iterator[Link]:
    opened = Link(running.url)
    yield opened
    opened.close()


def attached(link: Link, source: str, stage: str) -> Attached:
    found = read_attached(link.call(*attach_command(source, stage, RUN)))
    assert isinstance(found, Attached)
    return found


def goes_on(link: Link, source: str, stage: str, to: Position) -> None:
    """A reader commits that it is there."""
    token = attached(link, source, stage).token
    before = Position.parse(link.call("HGET", f"fg:{{{source}}}:at:{stage}", "p"))
    commit = Commit(stage, f"fg:{{{source}}}:out:{stage}", token, before, to)
    link.call(*hop_command([SourceHop(source, (commit,))]))


def woken(rooms: Rooms, count: int) -> list[str]:
    found: list[str] = []
    until = time.monotonic() + DEADLINE_S
    while len(found) < count and readable([rooms.link.fileno()], until - time.monotonic()):
        found += rooms.hear()
    return found


def test_each_of_many_waits_ends_when_its_own_readers_are_there(
    store: StoreAdmin, link: Link, apart: Link
) -> None:
    rooms = Rooms(apart)
    names = [f"r{n}" for n in range(200)]
    for name in names:
        store.claim(name, RUN, "the test", take_over=False)
        for reader in READERS:
            attached(link, name, reader)
        rooms.arm(name, READERS, AT)
        rooms.arm(name, READERS, AT)  # it waits already
    assert rooms.hear() == []
    for name in names[::2]:
        goes_on(link, name, "cache", AT)
    assert sorted(woken(rooms, 100)) == sorted(names[::2])
    assert rooms.look(link, names[0]) == START, "the slowest of them counts"
    rooms.arm(names[0], READERS, AT)
    goes_on(link, names[0], "save", Position(1, 7))
    assert woken(rooms, 1) == [names[0]]
    assert rooms.look(link, names[0]) == AT


def test_a_wait_for_who_is_there_already_ends_at_once(
    store: StoreAdmin, link: Link, apart: Link
) -> None:
    rooms = Rooms(apart)
    store.claim("there", RUN, "the test", take_over=False)
    goes_on(link, "there", "cache", AT)
    rooms.arm("there", READERS, AT)
    assert woken(rooms, 1) == ["there"]


def test_a_source_waits_for_other_readers_the_next_time(
    store: StoreAdmin, link: Link, apart: Link
) -> None:
    rooms = Rooms(apart)
    store.claim("a", RUN, "the test", take_over=False)
    for readers in (READERS[:1], READERS[1:]):
        for reader in readers:
            goes_on(link, "a", reader, AT)
        rooms.arm("a", readers, AT)
        assert woken(rooms, 1) == ["a"]
        assert rooms.readers_of("a") == readers
        assert rooms.look(link, "a") == AT


@pytest.mark.parametrize(
    ("until", "trail"),
    [
        (Position(1, 5), START),
        (Position(4, TRAIL_FRAMES - 1), Position(3, 0)),
        (Position(4, TRAIL_FRAMES + 7), Position(4, 7)),
    ],
)
def test_what_trails_has_read_all_but_the_last_frames(until: Position, trail: Position) -> None:
    assert trail_of(until) == trail


def test_a_wait_that_was_forgotten_wakes_nobody(store: StoreAdmin, link: Link, apart: Link) -> None:
    rooms = Rooms(apart)
    for name in ("gone", "stays"):
        store.claim(name, RUN, "the test", take_over=False)
        attached(link, name, "cache")
        rooms.arm(name, READERS, AT)
    rooms.forget("gone")
    assert rooms.due_in() is not None
    goes_on(link, "gone", "cache", AT)
    goes_on(link, "stays", "cache", AT)
    assert woken(rooms, 1) == ["stays"]
    assert rooms.due_in() is None


def test_epochs_that_are_asked_for_together_come_each_to_its_own(
    store: StoreAdmin, link: Link, apart: Link
) -> None:
    epochs = EpochRequests(apart, RUN)
    names = [f"e{n}" for n in range(50)]
    tokens = {}
    for name in names:
        store.claim(name, RUN, "the test", take_over=False)
        tokens[name] = attached(link, name, "decode").token
        epochs.ask(name, tokens[name])
        epochs.ask(name, tokens[name])  # under way already
    epochs.ask("strange", b"1")  # nobody's
    epochs.forget(names[7])
    over: set[EpochGiven | EpochRefused] = set()
    while len(over) < len(names):
        assert readable([apart.fileno()], 120)
        over |= set(epochs.hear())
    expected = {EpochGiven(name, 1) for name in names if name != names[7]}
    assert over == expected | {EpochRefused("strange", CommitStatus.FENCED)}
    epochs.ask(names[7], tokens[names[7]])
    later: list[EpochGiven | EpochRefused] = []
    while not later:
        assert readable([apart.fileno()], 120)
        later = epochs.hear()
    assert later[0] in (EpochGiven(names[7], 1), EpochGiven(names[7], 2)), (
        "what was forgotten may have been given, and is not again"
    )
