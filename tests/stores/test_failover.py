"""The store's primary is lost while a source moves: no epoch, no id is given twice.

Two runs of a camera, with the protocol's real calls but without processes, and real servers. The
replica hears nothing more from some call of the take-over on, and a few calls later the primary is
killed and the replica promoted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from framegate import subscribe
from framegate.cli.setup import check as checking
from framegate.cli.setup import measured_rates
from framegate.pipeline.config.config import find_config, read_config
from framegate.pipeline.contracts import keys
from framegate.pipeline.contracts.errors import (
    ConfigFaults,
    Exit,
    StoreBusy,
    StoreLost,
    StoreRefused,
    TakenOver,
)
from framegate.pipeline.contracts.records import START, Position
from framegate.pipeline.ingest.store_waits import EpochRefused, EpochRequests
from framegate.pipeline.store import admin as stores
from framegate.pipeline.store.admin import StoreAdmin
from framegate.pipeline.store.hop import (
    FRAME,
    Attached,
    Commit,
    CommitReply,
    CommitStatus,
    Entry,
    SourceHop,
    attach_command,
    hop_command,
    read_attached,
    read_replies,
)
from framegate.pipeline.store.worker_connections import Links, readable
from tests.support import footage
from tests.support.cameras.scripted import ScriptedCamera, paced
from tests.support.commands import Command, Reader, user_folder
from tests.support.fleets import Fleet
from tests.support.published import Publisher
from tests.support.replicated import Door, Trio, trio
from tests.support.runs import wait_until
from tests.support.stream_checker import checked

pytestmark = pytest.mark.whole_run

CAM = "cam"
REPLICAS = 1
AFTERWARDS = 6  # calls that are still answered once the replica hears nothing more
FRAMES = 60
PACED_FRAMES = 250


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trio]:
    with trio(tmp_path_factory.mktemp("trio")) as servers:
        yield servers


class Camera:
    """A run of one camera: decode, and cache that publishes what it reads.

    step  one thing more; what the store does not take is done again on new connections, as a
          worker or a service does
    """

    def __init__(self, run: str, url: str) -> None:
        self.run, self.url = run, url
        self.is_over = False
        self.epochs: list[int] = []
        self.generations: list[int] = []
        self._n = 0
        self._claimed = False
        self._links: Links | None = None
        self._confirmed = self._last = START
        self._tokens: dict[str, bytes] = {}
        self._published = START
        self._goes_on = False

    def step(self) -> None:
        try:
            if not self.is_over:
                self._step()
        except (StoreLost, StoreBusy):
            self.hang_up()
        except StoreRefused as refused:  # at the start: a service tries again
            if self._claimed or "replicas connected" not in str(refused):
                raise
        except TakenOver:
            self.is_over = True

    def hang_up(self) -> None:
        if self._links is not None:
            self._links.close()
        self._links = None

    def _step(self) -> None:
        if not self._claimed:
            self._claim()
        elif self._links is None:
            self._links = Links(self.url)
            self._attach(self._links)
        elif not self._goes_on:
            self._begin_epoch(self._links)
        else:
            self._decode(self._links)
            self._publish(self._links)

    def _claim(self) -> None:
        store = StoreAdmin(self.url, REPLICAS)
        try:
            store.prepare()
            store.claim(CAM, self.run, self.run, take_over=True)
            self._claimed = True
        finally:
            store.close()

    def _attach(self, links: Links) -> None:
        for stage in ("decode", "cache"):
            said = read_attached(links.of(CAM).call(*attach_command(CAM, stage, self.run)))
            if not isinstance(said, Attached):
                self._refused(said)
                return
            self._tokens[stage] = said.token
            if stage == "decode":
                # As Feed.attach: elsewhere than where it was, a camera begins another epoch.
                self._goes_on &= said.position in (self._confirmed, self._last)
                self._confirmed = self._last = said.position
            else:
                self._published = said.position
        links.await_replicas([CAM], REPLICAS)

    def _refused(self, verdict: CommitStatus) -> None:
        assert verdict is not CommitStatus.GONE
        self.is_over |= verdict is CommitStatus.FENCED
        self.hang_up()

    def _begin_epoch(self, links: Links) -> None:
        token = self._tokens["decode"]
        request = EpochRequests(links.open(CAM), self.run, REPLICAS)
        request.ask(CAM, token)
        try:
            while not (over := request.hear()):
                readable([request.link.fileno()])
        finally:
            request.link.close()
        (answer,) = over
        if isinstance(answer, EpochRefused):
            self._refused(answer.status)
            return
        self.epochs.append(answer.epoch)
        self._last, self._goes_on = Position(answer.epoch, -1), True

    def _decode(self, links: Links) -> None:
        self._n += 1
        self._last = Position(self._last.epoch, self._last.seq + 1)
        seen = Entry(self._last, FRAME, f"{self.run} saw {self._n}".encode())
        if self._commit(links, "decode", self._confirmed, (seen,)):
            self._confirmed = self._last

    def _publish(self, links: Links) -> None:
        if self._links is None:
            return
        found = links.of(CAM).call("XRANGE", keys.out(CAM, "decode"), f"({self._published}", "+")
        said = tuple(Entry(Position.parse(i), FRAME, fields[3]) for i, fields in found)
        if said and self._commit(links, "cache", self._published, said):
            self._published = said[-1].position

    def _commit(self, links: Links, stage: str, before: Position, said: tuple[Entry, ...]) -> bool:
        out = keys.out(CAM, stage) if stage == "decode" else keys.results(CAM)
        token = self._tokens[stage]
        commit = Commit(stage, out, token, before, said[-1].position, said)
        answer: CommitReply
        [answer] = read_replies(links.of(CAM).call(*hop_command([SourceHop(CAM, (commit,))])))
        assert answer.refused == 0, "an id did not grow"
        if answer.status is not CommitStatus.OK:
            self._refused(answer.status)
        return answer.status is CommitStatus.OK


class Onlooker:
    """Reads all results after each step, and who owns the source; forgets nothing."""

    def __init__(self, servers: Trio) -> None:
        self._servers = servers
        self.seen: dict[Position, bytes] = {}
        self.owners: dict[int, str] = {}

    def look(self) -> None:
        with self._servers.still:
            self._look(self._servers.primary.client)

    def _look(self, client: Any) -> None:
        for entry_id, fields in client.xrange(keys.results(CAM)):
            at, said = Position.parse(entry_id), fields[b"d"]
            if at not in self.seen:
                assert at > max(self.seen, default=START), "it came after a later one"
            assert self.seen.setdefault(at, said) == said, f"{at} has two contents"
        own = client.hgetall(keys.own(CAM))
        if own.get(b"run"):
            run = own[b"run"].decode()
            assert self.owners.setdefault(int(own[b"generation"]), run) == run


def move(folder: Path, servers: Trio, at: int) -> None:
    """`newer` takes a camera from `older`; from its `at`-th call on the replica hears nothing."""
    calls = 0

    def heard(command: list[bytes]) -> None:
        nonlocal calls
        calls += 1
        if servers.failed_over:
            return
        if calls == at:
            servers.cut()
        # What waits for replicas would wait in vain: this is as far as it comes.
        if calls >= at and (command[0] == b"WAIT" or calls >= at + AFTERWARDS):
            servers.fail_over()
            raise ConnectionError

    servers.begin_anew()
    plain, watched = Door(folder / "a", servers), Door(folder / "b", servers, heard)
    store = StoreAdmin(plain.url, REPLICAS)
    store.prepare()
    older, newer = Camera("older", plain.url), Camera("newer", watched.url)
    onlooker = Onlooker(servers)
    try:
        for _ in range(8):
            older.step()
            onlooker.look()
        assert onlooker.seen
        for _ in range(200):
            newer.step()
            onlooker.look()
            older.step()
            onlooker.look()
            newest = max(onlooker.seen)
            of_newer = onlooker.seen[newest].startswith(b"newer saw")
            if servers.failed_over and older.is_over and of_newer and newest.seq > 3:
                break
        else:
            raise AssertionError(f"it does not come to an end; {calls} calls")
        assert not newer.is_over
        epochs = older.epochs + newer.epochs
        assert len(set(epochs)) == len(epochs)
        assert max(epochs) == newer.epochs[-1] == max(onlooker.seen).epoch
    finally:
        older.hang_up()
        newer.hang_up()
        store.close()
        plain.close()
        watched.close()


@pytest.mark.parametrize("at", range(1, 51))
def test_the_primary_is_lost_while_a_source_moves(tmp_path: Path, servers: Trio, at: int) -> None:
    move(tmp_path, servers, at)


def test_a_fleet_continues_after_a_failover_amid_a_move(tmp_path: Path, servers: Trio) -> None:
    """Real slots: a file loses no frame, a camera begins an epoch, and no id has two contents."""
    servers.begin_anew()
    door = Door(tmp_path / "door", servers)
    slots = {"a": 2.0, "b": 2.0}
    footage.write_scene(tmp_path / "clip.mp4", footage.steady(7500))  # 300 s
    sources = {"file": {"url": str(tmp_path / "clip.mp4"), "pace": "realtime", "cost": 0.5}}
    more = "[store]\nreplicas = 1\n[live]\nstall_s = 60\n"
    with (
        closing(door),
        closing(Fleet(tmp_path, door.url, more)) as at,
        ScriptedCamera(lambda: paced(100_000, 10)) as camera,
        checked(door.url, "file", "gate", may_lose=True),
    ):
        at.apply(slots, {**sources, "gate": {"url": camera.url, "cost": 0.5}})
        started = [at.start(name, f"host_{name}") for name in slots]
        for name in ("file", "gate"):
            at.until(name, 20)
        servers.primary.client.wait(1, 10_000)
        for name in ("file", "gate"):
            [there] = slots.keys() - {at.slot_of(name)}
            at.does("move", name, there)
            if servers.failed_over:
                servers.spare.start()
            servers.fail_over()
            wait_until("it has moved", lambda s=f"(slot {there},", n=name: s in at.owner(n))
            at.until(name, at.published(name) + 20)
        for slot in started:
            slot.interrupt()
            assert slot.wait().code == 0
        results = at.reader.results("file")
        assert [(r["epoch"], r["seq"]) for r in results] == [(1, n) for n in range(len(results))]
        ids = [(r["epoch"], r["seq"]) for r in at.reader.results("gate")]
        assert ids == sorted(set(ids))


def test_an_epoch_is_after_all_that_entries_have(tmp_path: Path, servers: Trio) -> None:
    """Also where the store knows of none: what is published is never given again."""
    servers.begin_anew()
    door = Door(tmp_path / "a", servers)
    camera = Camera("mine", door.url)
    for stream, last in ((keys.results(CAM), "7-3"), (keys.out(CAM, "decode"), "9-0")):
        servers.primary.client.xadd(stream, {"k": "frame", "d": ""}, last)
        servers.primary.client.xtrim(stream, maxlen=0, approximate=False)
    for _ in range(4):
        camera.step()
    assert camera.epochs == [10]
    assert servers.primary.client.hget(keys.own(CAM), "epoch") == b"10"
    camera.hang_up()
    door.close()


def test_a_store_with_replicas_wants_to_be_told_how_many_count(
    servers: Trio, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    servers.begin_anew()
    url = f"unix://{servers.primary.socket}"
    with pytest.raises(
        StoreRefused, match=r"has replicas \(1\), and \[store\] replicas is 0: after a"
    ):
        StoreAdmin(url).prepare()
    with pytest.raises(StoreRefused, match=r"has 1 replicas connected; .* = 2 needs as many"):
        StoreAdmin(url, 2).prepare()
    StoreAdmin(url, 1).prepare()
    monkeypatch.setattr(measured_rates, "MEASURE_S", 0.05)
    origin, text = find_config(None)
    assert checking.check(read_config(origin, text, {"store": {"url": url}})) == Exit.STORE
    assert "has replicas (1), and [store] replicas is 0" in capsys.readouterr().out


def test_a_claim_that_no_replica_hears_of_is_none(
    servers: Trio, monkeypatch: pytest.MonkeyPatch
) -> None:
    servers.begin_anew()
    monkeypatch.setattr(stores, "REPLICAS_TRIES", 1)
    store = StoreAdmin(f"unix://{servers.primary.socket}", 1)
    store.prepare()
    servers.replica.freeze()
    try:
        with pytest.raises(StoreBusy, match=r"is on 0 of 1 replicas \(\[store\] replicas\)"):
            store.claim(CAM, "mine", "mine", take_over=False)
    finally:
        servers.replica.thaw()
    store.claim(CAM, "mine", "mine", take_over=False)
    assert wait_until("it is there", lambda: servers.replica.client.hget(keys.own(CAM), "run"))
    store.close()


def test_nothing_is_served_while_the_replica_is_away(tmp_path: Path, servers: Trio) -> None:
    """A run as somebody starts it: it waits, and goes on once the replica is back."""
    servers.begin_anew()
    folder = user_folder(tmp_path / "user", more="[store]\nreplicas = 1\n")
    footage.write_scene(folder / "cam.mp4", footage.steady(FRAMES))
    url = f"unix://{servers.primary.socket}"
    with Command(folder, "run", "cam.mp4", "-d", "data", "--store", url, "--http", "off") as run:
        client = servers.primary.client
        wait_until("it owns its source", lambda: client.hget(keys.own(CAM), "run"))
        servers.replica.freeze()
        try:
            run.says("is on 0 of 1 replicas ([store] replicas)")
            assert client.xlen(keys.results(CAM)) == 0
        finally:
            servers.replica.thaw()
        ended = run.wait()
    assert ended.code == 0, ended.err
    reader = Reader(url)
    assert len(reader.whole(CAM, FRAMES)) == FRAMES
    reader.close()


def realtime_run(folder: Path, url: str) -> Command:
    """Start a run of a file that takes ten seconds."""
    source = '[sources.cam]\nurl = "cam.mp4"\npace = "realtime"\n'
    user_folder(folder, more=f"[store]\nreplicas = 1\n{source}")
    footage.write_scene(folder / "cam.mp4", footage.steady(PACED_FRAMES))
    return Command(folder, "run", "-d", "data", "--store", url, "--http", "off")


def ends_whole(run: Command, servers: Trio) -> None:
    """Check that a run ends with each frame once, and releases its source."""
    ended = run.wait()
    assert ended.code == 0, ended.err
    reader = Reader(f"unix://{servers.primary.socket}")
    assert len(reader.whole(CAM, PACED_FRAMES)) == PACED_FRAMES
    assert not reader.client.hget(keys.own(CAM), "run")
    reader.close()


def test_frames_wait_while_a_primary_that_needs_a_replica_has_none(
    tmp_path: Path, servers: Trio
) -> None:
    servers.begin_anew()
    client = servers.primary.client
    client.config_set("min-replicas-to-write", 1)
    try:
        with realtime_run(tmp_path / "user", f"unix://{servers.primary.socket}") as run:
            wait_until("frames pass", lambda: client.xlen(keys.results(CAM)) > 10)
            servers.cut()
            run.says("NOREPLICAS")
            servers.replica.thaw()
            ends_whole(run, servers)
    finally:
        client.config_set("min-replicas-to-write", 0)


def test_a_run_continues_after_a_planned_failover(tmp_path: Path, servers: Trio) -> None:
    """Its connections to the former primary stay open."""
    servers.begin_anew()
    door = Door(tmp_path / "door", servers)
    client = servers.primary.client
    with closing(door), realtime_run(tmp_path / "user", door.url) as run:
        wait_until("frames pass", lambda: client.xlen(keys.results(CAM)) > 10)
        servers.hand_over()
        ends_whole(run, servers)


@pytest.mark.parametrize("is_async", [False, True])
def test_a_group_reads_and_acknowledges_after_a_planned_failover(
    tmp_path: Path, servers: Trio, is_async: bool
) -> None:
    """Its connection to the former primary stays open."""
    servers.begin_anew()
    door = Door(tmp_path / "door", servers)
    Publisher(door).results(CAM, 1, range(2))
    group = subscribe(door.url, [CAM], "earliest", group="counters", consumer="one")

    def read() -> int:
        result = next(group)
        group.ack(result)
        return result.seq

    async def aread() -> int:
        result = await anext(group)
        await group.aack(result)
        return result.seq

    async def steps() -> None:
        for seq in range(4):
            if seq == 2:
                servers.hand_over()
                Publisher(door).results(CAM, 1, range(2, 4))
            assert (await aread() if is_async else read()) == seq
        await group.aclose()

    with closing(door):
        asyncio.run(steps())


def test_the_embedded_store_has_no_replicas() -> None:
    origin, text = find_config(None)
    with pytest.raises(
        ConfigFaults, match=r"store\.replicas = 1: the embedded store has no replicas"
    ):
        read_config(origin, text, {"store": {"replicas": 1}})
