"""Published streams are cut by age and size, and never before those who are waited for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import keys
from pipeline.client import ResultsTrimmed, subscribe
from pipeline.embedded import EmbeddedStore
from pipeline.records import Position
from pipeline.retention import Limits, Retention, cut, first_since
from tests import footage
from tests.commands import framegate, user_folder
from tests.pipeline.published import Publisher, result
from tests.pipeline.servers import server

positions = st.builds(Position, st.integers(1, 4), st.integers(0, 40))


@given(st.sets(positions, min_size=1), st.data())
def test_the_search_finds_the_first_of_all_that_are_young(
    ids: set[Position], data: st.DataObject
) -> None:
    stream = sorted(ids)
    ages = st.lists(st.floats(0, 9), min_size=len(ids), max_size=len(ids))
    times = dict(zip(stream, sorted(data.draw(ages)), strict=True))
    since = data.draw(st.floats(0, 9))

    def published_from(position: Position) -> float | None:
        return next((times[each] for each in stream if each >= position), None)

    found = first_since(since, stream[0], stream[-1], published_from)
    assert {p for p in stream if p >= found} == {p for p in stream if times[p] >= since}


@given(st.lists(positions, min_size=1), st.lists(positions), positions, positions)
def test_a_cut_takes_nothing_that_is_unread_and_not_the_newest(
    wanted: list[Position], read: list[Position], newest: Position, gone: Position
) -> None:
    stays = cut(wanted, read, newest)
    assert stays <= newest
    assert stays <= max(wanted)
    assert gone >= stays or all(gone <= position for position in read)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[EmbeddedStore]:
    with server(tmp_path / "store") as running:
        yield running


class Stream(Publisher):
    """Source `gate` of run r1: 100 frames in two epochs, published a second apart."""

    def fill(self) -> None:
        self.client.hset(keys.SOURCES, "gate", "a run")
        self.client.hset(keys.own("gate"), mapping={"run": "r1"})
        for n in range(100):
            epoch, seq = 1 + n // 50, n % 50
            made = msgspec.structs.replace(result("gate", epoch, seq), published=1000.0 + n)
            self._add("gate", Position(epoch, seq), "frame", made)
            if seq == 49:
                self.end("gate", epoch, 50, last=epoch == 2)

    def close(self) -> None:
        self.client.close()

    def ids(self) -> list[str]:
        return [i.decode() for i, _ in self.client.xrange(keys.results("gate"))]


@pytest.fixture
def stream(store: EmbeddedStore) -> Iterator[Stream]:
    made = Stream(store)
    made.fill()
    yield made
    made.close()


def cut_now(store: EmbeddedStore, limits: Limits, readers: tuple[str, ...] = ()) -> dict[str, int]:
    """Cut 100 s after the first frame."""
    with closing(Retention(store.url, "r1", readers, limits)) as retention:
        return retention.cut_all(now=1100.0)


def test_what_is_too_old_goes_and_a_reader_learns_of_it(
    store: EmbeddedStore, stream: Stream
) -> None:
    assert cut_now(store, Limits(age_s=30)) == {"gate": 71}
    assert stream.ids()[0] == "2-20"
    with (
        subscribe(store.url, start={"gate": "1-5"}, until_end=True) as results,
        pytest.raises(ResultsTrimmed, match="after 1-5 and before 2-20"),
    ):
        next(results)


def test_a_cut_between_two_epochs(store: EmbeddedStore, stream: Stream) -> None:
    cut_now(store, Limits(age_s=50))
    assert stream.ids()[:2] == ["1-50", "2-0"]


def test_the_end_of_a_source_stays(store: EmbeddedStore, stream: Stream) -> None:
    cut_now(store, Limits(age_s=1e-3, nbytes=1))
    assert stream.ids() == ["2-50"]


def test_what_takes_too_many_bytes_goes(store: EmbeddedStore, stream: Stream) -> None:
    before = stream.client.memory_usage(keys.results("gate"), samples=0)
    assert before is not None
    cut_now(store, Limits(nbytes=before // 2))
    after = stream.client.memory_usage(keys.results("gate"), samples=0)
    assert after is not None
    assert before * 0.3 < after <= before * 0.6
    assert stream.ids()[-1] == "2-50"


def test_nothing_goes_that_a_stage_which_is_waited_for_has_not_read(
    store: EmbeddedStore, stream: Stream
) -> None:
    stream.client.hset(keys.at("gate", "print"), "p", "1-9")
    cut_now(store, Limits(age_s=1, nbytes=1), ("print",))
    assert stream.ids()[0] == "1-10"
    cut_now(store, Limits(age_s=1, nbytes=1), ("print", "new"))
    assert stream.ids()[0] == "1-10", "one that has not begun has read nothing"
    stream.client.hset(keys.at("gate", "print"), "gone", "1")
    cut_now(store, Limits(age_s=0.5), ("print",))
    assert stream.ids() == ["2-50"], "one that was given up is not waited for"


def test_another_runs_source_and_one_without_limits_stay_whole(
    store: EmbeddedStore, stream: Stream
) -> None:
    assert cut_now(store, Limits()) == {}
    stream.client.hset(keys.own("gate"), "run", "r2")
    assert cut_now(store, Limits(age_s=1, nbytes=1)) == {}
    assert len(stream.ids()) == 102


def test_a_run_cuts_what_its_configuration_says(tmp_path: Path) -> None:
    """At its beginning already: what an earlier run has left is too old for this one."""
    folder = user_folder(tmp_path / "user", more="[store]\nresults_age_s = 3600\n")
    footage.write_scene(folder / "gate.mp4", footage.steady(20))
    with server(folder / "server") as store, closing(Stream(store)) as old:
        old.fill()
        old.client.hset(keys.own("gate"), mapping={"run": "", "epoch": 2})
        ended = framegate(folder, "run", "gate.mp4", "-d", "data", "--store", store.url)
        assert ended.code == 0, ended.err
        assert old.ids()[-21:] == [f"3-{n}" for n in range(21)]
        assert len(old.ids()) <= 22
