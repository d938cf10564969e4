"""Published streams are cut by age and size, and never before those who are waited for."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from framegate import subscribe
from framegate.cli.main import main
from framegate.models.registry.registry import Registry
from framegate.pipeline.contracts import keys, records
from framegate.pipeline.contracts.errors import ResultsTrimmed
from framegate.pipeline.contracts.records import End, Position
from framegate.pipeline.contracts.spec import StageSpec
from framegate.pipeline.store.admin import StoreAdmin
from framegate.pipeline.store.embedded import LOG_BYTES, EmbeddedStore
from framegate.pipeline.store.hop import epoch_command, function
from framegate.pipeline.store.redis_client import connect
from framegate.pipeline.store.retention import (
    RESUMABLE_S,
    Gone,
    Retention,
    RetentionLimits,
    cut,
    drop_certificates,
    keep_limits,
    to_forget,
)
from framegate.pipeline.system.clocks import FirstSeen
from framegate.stages.detect.pinned_models import SPARE_MODELS, forget_models
from tests.support import footage
from tests.support.clusters import cluster
from tests.support.commands import framegate, user_folder
from tests.support.host_clocks import SimulatedHost
from tests.support.made_models import folder_of
from tests.support.published import Publisher
from tests.support.runs import DEADLINE_S
from tests.support.servers import server

positions = st.builds(Position, st.integers(1, 4), st.integers(0, 40))


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

    def __init__(self, store: EmbeddedStore) -> None:
        super().__init__(store)
        self.host = SimulatedHost(1_790_000_000.0)
        self.client.hset(keys.SOURCES, "gate", "a run")
        self.client.hset(keys.own("gate"), mapping={"run": "r1"})

    def fill(self, retention: Retention | None = None) -> None:
        """retention: cuts after each frame."""
        for n in range(100):
            epoch, seq = 1 + n // 50, n % 50
            self.results("gate", epoch, [seq])
            if seq == 49:
                self.end("gate", epoch, 50, last=epoch == 2)
            if retention is not None:
                retention.cut_all()
            self.host.passes(1.0)

    def close(self) -> None:
        self.client.close()

    def ids(self) -> list[str]:
        return [i.decode() for i, _ in self.client.xrange(keys.results("gate"))]


@pytest.fixture
def stream(store: EmbeddedStore) -> Iterator[Stream]:
    made = Stream(store)
    yield made
    made.close()


def cut_now(
    store: EmbeddedStore, stream: Stream, limits: RetentionLimits, readers: tuple[str, ...] = ()
) -> dict[str, int]:
    """Cut what was filled already, and has been looked at before if it goes by age."""
    with closing(Retention(store.url, "r1", readers, limits, stream.host)) as retention:
        if not limits.age_s:
            return retention.cut_all()
        first = retention.cut_all()
        stream.host.passes(limits.age_s + 1.0)
        later = retention.cut_all()
        return {name: first.get(name, 0) + later.get(name, 0) for name in first | later}


def test_what_is_too_old_goes_and_a_reader_learns_of_it(
    store: EmbeddedStore, stream: Stream
) -> None:
    limits = RetentionLimits(age_s=30)
    with closing(Retention(store.url, "r1", (), limits, stream.host)) as retention:
        stream.fill(retention)
        assert len(stream.ids()) == 31
        assert retention.cut_all() == {"gate": 1}
    assert stream.ids()[0] == "2-21", "29 seconds old"
    with (
        subscribe(store.url, start={"gate": "1-5"}, until_end=True) as results,
        pytest.raises(ResultsTrimmed, match="after 1-5 and before 2-21"),
    ):
        next(results)


@pytest.mark.parametrize("limits", [RetentionLimits(age_s=30), RetentionLimits(nbytes=20_000)])
def test_a_store_without_memory_is_cut(
    store: EmbeddedStore, stream: Stream, limits: RetentionLimits
) -> None:
    """Or it stays full: what is noted for later cuts needs memory, what a cut removes frees it."""
    with closing(Retention(store.url, "r1", (), limits, stream.host)) as retention:
        stream.results("gate", 1, range(400))
        if limits.age_s:
            assert retention.cut_all() == {}
        stream.host.passes(31.0)
        stream.client.config_set("maxmemory", 1 << 20)
        with pytest.raises(redis.exceptions.OutOfMemoryError):
            stream.client.set("more", "than there is room for")
        cuts = retention.cut_all()
        assert 0 < cuts["gate"] == 400 - len(stream.ids())


def test_a_cut_between_two_epochs(store: EmbeddedStore, stream: Stream) -> None:
    limits = RetentionLimits(age_s=49.5)
    with closing(Retention(store.url, "r1", (), limits, stream.host)) as retention:
        stream.fill(retention)
    assert stream.ids()[0] == "2-0"


def test_results_that_nobody_looked_at_are_as_old_as_the_first_look(
    store: EmbeddedStore, stream: Stream
) -> None:
    stream.fill()
    limits = RetentionLimits(age_s=30)
    with closing(Retention(store.url, "r1", (), limits, stream.host)) as retention:
        for _ in range(2):
            assert retention.cut_all() == {}
            stream.host.steps(3e8)  # what a wall clock says is no age
        stream.host.passes(31.0)
        assert retention.cut_all() == {"gate": 101}


def test_the_end_of_a_source_stays(store: EmbeddedStore, stream: Stream) -> None:
    stream.fill()
    cut_now(store, stream, RetentionLimits(age_s=1e-3, nbytes=1))
    assert stream.ids() == ["2-50"]


def test_what_takes_too_many_bytes_goes(store: EmbeddedStore, stream: Stream) -> None:
    stream.fill()
    before = stream.client.memory_usage(keys.results("gate"), samples=0)
    assert before is not None
    cut_now(store, stream, RetentionLimits(nbytes=before // 2))
    after = stream.client.memory_usage(keys.results("gate"), samples=0)
    assert after is not None
    assert before * 0.3 < after <= before * 0.6
    assert stream.ids()[-1] == "2-50"


def test_nothing_goes_that_a_stage_which_is_waited_for_has_not_read(
    store: EmbeddedStore, stream: Stream
) -> None:
    stream.fill()
    stream.client.hset(keys.at("gate", "print"), "p", "1-9")
    cut_now(store, stream, RetentionLimits(age_s=1, nbytes=1), ("print",))
    assert stream.ids()[0] == "1-10"
    cut_now(store, stream, RetentionLimits(age_s=1, nbytes=1), ("print", "new"))
    assert stream.ids()[0] == "1-10", "one that has not begun has read nothing"
    stream.client.hset(keys.at("gate", "print"), "gone", "1")
    cut_now(store, stream, RetentionLimits(age_s=0.5), ("print",))
    assert stream.ids() == ["2-50"], "one that was given up is not waited for"


def test_another_runs_source_and_one_without_limits_stay_whole(
    store: EmbeddedStore, stream: Stream
) -> None:
    stream.fill()
    assert cut_now(store, stream, RetentionLimits()) == {}
    stream.client.hset(keys.own("gate"), "run", "r2")
    assert cut_now(store, stream, RetentionLimits(age_s=1, nbytes=1)) == {}
    assert len(stream.ids()) == 102


def test_a_full_disk_does_not_stop_the_cuts_in_a_store(
    store: EmbeddedStore, stream: Stream
) -> None:
    stream.fill()
    publish = StageSpec("publish", "", "decode", main=True, reliable=True, publishes=True)

    def tidy() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    async def keep() -> None:
        limits = RetentionLimits(nbytes=1)
        keeping = asyncio.create_task(keep_limits(store.url, "r1", [publish], limits, tidy))
        async with asyncio.timeout(DEADLINE_S):
            while len(stream.ids()) > 1:
                await asyncio.sleep(0.05)
        keeping.cancel()

    asyncio.run(keep())


def test_a_run_looks_at_the_age_of_results_where_its_configuration_limits_it(
    tmp_path: Path,
) -> None:
    folder = user_folder(tmp_path / "user", more="[store]\nresults_age_s = 3600\n")
    footage.write_scene(folder / "gate.mp4", footage.steady(20))
    with server(folder / "server") as store, closing(Stream(store)) as old:
        old.fill()
        old.client.hset(keys.own("gate"), mapping={"run": "", "epoch": 2})
        ended = framegate(folder, "run", "gate.mp4", "-d", "data", "--store", store.url)
        assert ended.code == 0, ended.err
        stored = old.client.hget(keys.own("gate"), "seen")
        assert stored is not None
        seen = records.decode(stored, FirstSeen)
    assert seen.notes[0][0] >= Position(2, 50)


GONE = st.builds(Gone, st.text("ab", max_size=3), st.integers(0, 20), st.booleans(), st.just(1))


@given(st.lists(GONE, max_size=9), st.integers(0, 9))
def test_what_was_let_go_last_stays_and_what_may_be_resumed(gone: list[Gone], keep: int) -> None:
    now = 10 + RESUMABLE_S
    forgotten = to_forget(gone, keep, now)
    stay = list(gone)
    for one in forgotten:
        stay.remove(one)
    for one in forgotten:
        assert one.removed or one.freed < 10
        assert len([other for other in stay if other.freed >= one.freed]) >= keep
    later = to_forget(gone, keep, now + RESUMABLE_S + 21)
    assert len(gone) - len(later) == min(keep, len(gone))


def of(client: Any, source: str) -> list[str]:
    return sorted(key.decode() for key in client.scan_iter(match=f"fg:{{{source}}}:*"))


class Shop:
    """Sources that come and go in one store, by the store's own functions, at told times."""

    def __init__(self, embedded: EmbeddedStore, keep: int) -> None:
        self.publisher = Publisher(embedded)
        self.client = self.publisher.client
        self.store = StoreAdmin(embedded.url)
        self.store.prepare()
        self.host = SimulatedHost(0.0)
        limits = RetentionLimits(sources=keep)
        self.retention = Retention(embedded.url, "r1", (), limits, self.host)

    def close(self) -> None:
        self.client.close()
        self.store.close()
        self.retention.close()

    def cuts(self, now: float) -> None:
        """Cut as the wall clock shows that time."""
        self.host.passes(now - self.host.wall_s)
        self.retention.cut_all()

    def comes(self, source: str, run: str = "r1") -> int:
        """Claimed, attached, an epoch begun, three frames: the epoch."""
        self.store.claim(source, run, f"{run}!", take_over=False)
        (_, token, *_) = self.client.fcall(function("attach"), 2, *self.places(source), run)
        _, epoch = self.client.execute_command(*epoch_command(source, token, run))
        self.publisher.results(source, epoch, range(3))
        self.publisher.end(source, epoch, 3)
        self.client.hincrby(keys.count(source), "published", 3)
        return int(epoch)

    def places(self, source: str) -> tuple[str, str]:
        return keys.own(source), keys.at(source, "decode")

    def goes(self, source: str, at: float, run: str = "r1", removed: bool = True) -> None:
        self.store.release(source, run, removed)
        self.client.hset(keys.own(source), "freed", int(at))


@pytest.fixture
def shop(store: EmbeddedStore) -> Iterator[Shop]:
    store.settle()
    made = Shop(store, keep=2)
    yield made
    made.close()


def test_a_source_that_was_removed_long_ago_leaves_nothing_and_its_epochs_do_not_come_again(
    shop: Shop,
) -> None:
    for _ in range(5):
        assert shop.comes("old")
    shop.goes("old", at=1)
    for n in range(2):
        shop.comes(f"new{n}")
        shop.goes(f"new{n}", at=2 + n)
    shop.cuts(10)
    assert of(shop.client, "old"), "not before its epochs are written down"
    shop.cuts(70)
    assert of(shop.client, "old") == []
    assert shop.store.sources() == ["new0", "new1"]
    assert len(of(shop.client, "new0")) == 4
    assert shop.comes("old") == 6
    assert shop.comes("never") == 6


def test_who_takes_a_source_that_is_to_be_forgotten_keeps_all_of_it(shop: Shop) -> None:
    for n in range(4):
        shop.comes(f"a{n}")
        shop.goes(f"a{n}", at=n)
    shop.cuts(10)
    shop.store.claim("a0", "r2", "r2!", take_over=False)
    shop.cuts(70)
    assert shop.store.sources() == ["a0", "a2", "a3"]
    before = of(shop.client, "a0")
    own = keys.own("a0")
    others = [key for key in before if key != own]
    assert shop.client.fcall(function("forget"), len(before), own, *others, "0", "9") == 0
    assert of(shop.client, "a0") == before
    assert shop.comes("a0", "r2") == 2


def test_a_run_that_ended_can_be_resumed_for_a_week(shop: Shop) -> None:
    for n in range(5):
        shop.comes(f"a{n}", "r2")
        shop.goes(f"a{n}", at=100 + n, run="r2", removed=False)
    for now in (200, 300):
        shop.cuts(now)
    assert len(shop.store.sources()) == 5
    for now in (110 + RESUMABLE_S, 200 + RESUMABLE_S):
        shop.cuts(now)
    assert shop.store.sources() == ["a3", "a4"]


def test_results_of_removed_sources_are_cut_as_well(store: EmbeddedStore, stream: Stream) -> None:
    stream.fill()
    stream.client.hset(keys.own("gate"), mapping={"run": "", "name": "", "freed": 1000})
    assert cut_now(store, stream, RetentionLimits(age_s=30)) == {"gate": 101}


def test_readers_go_on_where_sources_are_forgotten(shop: Shop, store: EmbeddedStore) -> None:
    with (
        subscribe(store.url, start="earliest") as alone,
        subscribe(store.url, start="earliest", group="g", consumer="c") as member,
    ):
        for n in range(6):
            epoch = shop.comes(f"a{n}")
            for reader in (alone, member):
                got = [next(reader) for _ in range(3)]
                assert [(r.source, r.epoch) for r in got] == [(f"a{n}", epoch)] * 3
            shop.goes(f"a{n}", at=n)
            for now in (10, 70):
                shop.cuts(now)
        epoch = shop.comes("a0")
        for reader in (alone, member):
            assert [next(reader).epoch for _ in range(3)] == [epoch] * 3
    assert epoch > 1


@pytest.mark.parametrize("periods", [1, pytest.param(24, marks=pytest.mark.long)])
def test_a_year_of_cameras_and_files_leaves_no_more_than_two_months(
    shop: Shop, tmp_path: Path, periods: int
) -> None:
    """A file a day added and removed, a camera that reconnects 100 times a day, so many periods a
    day with their certificates.
    """
    day = 86400
    months = {}
    folder, host = tmp_path / "certificates", SimulatedHost(0.0)
    folder.mkdir()
    shop.comes("cam")
    for n in range(360):
        now = n * day
        pipe = shop.client.pipeline(transaction=False)
        for _ in range(100):
            pipe.hincrby(keys.own("cam"), "epoch", 1)
        first = int(pipe.execute()[0])
        for seq in range(100):
            entry = {"k": "end", "d": records.encode(End(1, frames=0, last=False))}
            pipe.xadd(keys.results("cam"), entry, id=f"{first + seq}-0", maxlen=1000)
        pipe.execute()
        shop.comes(f"day{n}")
        shop.goes(f"day{n}", at=now)
        shop.cuts(now)
        for period in range(n * periods, (n + 1) * periods):
            for kind in ("json", "declared.json"):
                file = folder / f"cam-{period}.{kind}"
                file.touch()
        drop_certificates(folder, 30 * day, host())
        host.passes(day)
        if (n + 1) % 30 == 0:
            months[(n + 1) // 30] = (
                len(list(shop.client.scan_iter(count=1000))),
                len(shop.store.sources()),
                len(list(folder.iterdir())),
                shop.client.info("memory")["used_memory"],
            )
    second, last = months[2], months[12]
    assert last[:3] == second[:3]
    assert last[3] < second[3] * 1.1
    assert shop.comes("day0") > 118, "its epochs do not come again"


def test_certificates_go_by_age_with_their_declarations_and_it_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    host = SimulatedHost(1000.0)
    (tmp_path / "mine.txt").write_text("mine", encoding="utf-8")
    for n in range(3):
        for kind in ("declared.json", "json"):
            (tmp_path / f"a-{n}.{kind}").write_text("{}", encoding="utf-8")
        drop_certificates(tmp_path, 200.0, host())
        host.passes(100.0)
    assert sorted(path.name for path in tmp_path.glob("a-*")) == [
        f"a-{n}.{kind}" for n in (1, 2) for kind in ("declared.json", "json")
    ]
    drop_certificates(tmp_path, 200.0, host())
    assert (tmp_path / "mine.txt").exists()
    host.passes(1e9)
    drop_certificates(tmp_path, 0.0, host())
    assert len(list(tmp_path.glob("a-*"))) == 2
    assert main(["verify", str(tmp_path / "a-0.json")]) == 2
    assert "2 certificates were removed by age" in capsys.readouterr().err


def test_models_that_nobody_names_go_but_for_the_last_ones(tmp_path: Path) -> None:
    kept = Registry(tmp_path / "models")
    refs = []
    for n in range(SPARE_MODELS + 4):
        one = kept.put(folder_of(tmp_path / str(n), version=str(n))).manifest
        refs.append(f"{one.name}@{one.sha256}")
    meant = tmp_path / "models" / "meant"
    meant.mkdir()
    (meant / "yard").write_text(refs[1], encoding="utf-8")
    forget_models(tmp_path, {refs[0], "", None})
    left = {one.manifest.version for one in kept.models()}
    assert left == {"0", "1", *(str(n) for n in range(4, SPARE_MODELS + 4))}


def test_the_log_of_the_store_is_bounded(store: EmbeddedStore, tmp_path: Path) -> None:
    log = tmp_path / "store" / "valkey.log"
    for _ in range(3):
        log.write_bytes(bytes(LOG_BYTES + 1))
        store.cut_log()
    assert not log.exists()
    store.stop()  # it says so
    assert 0 < log.stat().st_size < LOG_BYTES
    assert log.with_suffix(".log.1").stat().st_size == LOG_BYTES + 1


def test_a_cluster_forgets_as_well(tmp_path: Path) -> None:
    """Each source on another server, and the last epoch of all on one of them."""
    with cluster(tmp_path) as servers, closing(StoreAdmin(servers[0].url)) as store:
        store.prepare()
        limits, host = RetentionLimits(sources=1), SimulatedHost(0.0)
        with closing(Retention(store.url, "r1", (), limits, host)) as retention:
            for n, name in enumerate(("ramp", "gate", "lane")):
                store.claim(name, "r1", "r1!", take_over=False)
                with closing(connect(store.url)) as clustered:
                    clustered.hset(keys.own(name), "epoch", 5)
                    clustered.xadd(keys.results(name), {"k": "end", "d": "x"})
                    store.release(name, "r1", removed=True)
                    clustered.hset(keys.own(name), "freed", n)
            for now in (10, 70):
                host.passes(now - host.wall_s)
                retention.cut_all()
        assert store.sources() == ["lane"]
        with closing(connect(store.url)) as clustered:
            assert not clustered.exists(keys.own("ramp"))
            assert not clustered.exists(keys.results("gate"))
        store.claim("ramp", "r2", "r2!", take_over=False)
        assert store.epoch("ramp") == 5
