"""A cluster as the store: each source on its server, and results as always.

Also when a server dies and comes back, and when a source moves to another server meanwhile.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
import redis

from framegate import subscribe
from framegate.cli.setup.store_size import StoreSize, size_of
from framegate.pipeline.store.cluster import Nodes, slot_of
from tests.runs.bad.folders import held_up, open_gate
from tests.runs.test_sinks import told_folder, visits
from tests.stores.test_own_redis import timeless
from tests.support import footage
from tests.support.cameras.scripted import ScriptedCamera, paced
from tests.support.clusters import Server, cluster
from tests.support.commands import Command, Reader, framegate, user_folder
from tests.support.fleets import Fleet
from tests.support.runs import wait_until
from tests.support.webhooks import receiving

pytestmark = pytest.mark.whole_run

FRAMES = 40
SOURCES = ["ramp", "gate", "lane"]  # of the first, the second and the third server
CLIPS = [f"{name}={name}.mp4" for name in SOURCES]

Results = dict[str, list[dict[str, Any]]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = user_folder(tmp_path / "user")
    for n, name in enumerate(SOURCES):
        footage.write_scene(folder / f"{name}.mp4", footage.steady(FRAMES), (96 + 32 * n, 64))
    return folder


@pytest.fixture
def expected(folder: Path) -> Results:
    """What the embedded store gives."""
    ended = framegate(folder, "run", *CLIPS, "--json")
    return {name: timeless(ended.results(name)) for name in SOURCES}


def check_results(servers: list[Server], expected: Results) -> None:
    for server, name in zip(servers, SOURCES, strict=True):
        reader = Reader(server.url)
        assert timeless(reader.whole(name, FRAMES)) == expected[name]
        reader.close()


def check_places(servers: list[Server]) -> None:
    """All keys of a source are on its server, in one slot."""
    for server, name in zip(servers, SOURCES, strict=True):
        of_sources = [key for key in server.client.scan_iter() if b"{" in key]
        assert all(f"fg:{{{name}}}:".encode() in key for key in of_sources)
        slots = {server.client.execute_command("CLUSTER KEYSLOT", key) for key in of_sources}
        assert slots == {slot_of(name)}


def check_readers(url: str) -> None:
    """Blocking, asyncio, and shared in a group."""
    positions = sorted((name, seq) for name in SOURCES for seq in range(FRAMES))
    with subscribe(url, start="earliest", until_end=True) as results:
        assert sorted((r.source, r.seq) for r in results) == positions

    async def read() -> list[tuple[str, int]]:
        async with subscribe(url, start="earliest", until_end=True) as results:
            return [(r.source, r.seq) async for r in results]

    assert sorted(asyncio.run(read())) == positions
    with subscribe(url, start="earliest", group="g", consumer="c") as results:
        found = []
        for result in itertools.islice(results, len(positions)):
            found.append((result.source, result.seq))
            results.ack(result)
    assert sorted(found) == positions


def disturbed(folder: Path, servers: list[Server], disturb: Callable[[Command], None]) -> Command:
    """A run that stood still at a frame while something happened to the cluster."""
    words = (*CLIPS, "-d", "data", "--store", servers[0].url)
    with held_up(folder, *words) as run:
        for server, name in zip(servers, SOURCES, strict=True):
            reader = Reader(server.url)
            wait_until(
                "frames are on their way", lambda r=reader, n=name: r.entries(n, "out:detect")
            )
            reader.close()
        disturb(run)
        open_gate(folder)
        ended = run.wait()
        assert ended.code == 0, ended.err
        return run


def test_a_server_that_dies_and_comes_back(folder: Path, expected: Results) -> None:
    with cluster(folder.parent / "cluster") as servers:

        def die(run: Command) -> None:
            check_places(servers)
            servers[1].kill()
            run.says("trying again")
            servers[1].start()

        disturbed(folder, servers, die)
        check_places(servers)
        check_results(servers, expected)
        check_readers(servers[2].url)
        assert size_of(servers[2].url) == StoreSize(10_000, 3, is_cluster=True)
        shown = framegate(folder, "watch", "--store", servers[2].url, "--json", "--once")
        views = {view["source"]: view["published"] for view in json.loads(shown.out)}
        assert views == dict.fromkeys(SOURCES, FRAMES)


@pytest.mark.parametrize("apart", [False, True])
def test_a_lost_server_concerns_its_own_sources_only(tmp_path: Path, apart: bool) -> None:
    """It is the one that the URL names. The others are served meanwhile, and all afterwards.

    apart: whether decode, detect and publish are in workers of their own
    """
    folder = user_folder(tmp_path / "user", apart=apart)
    for name in SOURCES:
        footage.write_scene(folder / f"{name}.mp4", footage.steady(7500))  # 300 s
    words = ("run", *CLIPS, "-d", "data", "--http", "off", "--pace", "realtime")
    with (
        cluster(tmp_path / "cluster") as servers,
        Command(folder, *words, "--store", servers[0].url) as run,
        ExitStack() as stack,
    ):
        readers = {}
        for server, name in zip(servers, SOURCES, strict=True):
            readers[name] = Reader(server.url)
            stack.callback(readers[name].close)

        def more(name: str) -> None:
            published = readers[name].counters(name).get("published", 0)
            wait_until(
                f"more of {name}",
                lambda: readers[name].counters(name).get("published", 0) > published + 50,
            )

        for name in SOURCES:
            more(name)
        servers[0].kill()
        run.says("source ramp waits, and all others of its server: ")
        for name in ("gate", "lane"):
            more(name)
        servers[0].start()
        wait_until("the cluster is whole", lambda: servers[0].knows == 3)
        for name in SOURCES:
            more(name)
        run.interrupt()
        assert run.wait().code == 0
        for name in SOURCES:
            results = readers[name].results(name)
            assert [(each["epoch"], each["seq"]) for each in results] == [
                (1, seq) for seq in range(len(results))
            ]
            assert {each["outcome"] for each in results} == {"detected"}


@pytest.mark.long
def test_a_promoted_replica_serves_the_sources_of_a_lost_server(tmp_path: Path) -> None:
    """The cluster promotes it without help, and Framegate finds it."""
    folder = user_folder(tmp_path / "user", more="[store]\nreplicas = 1\n")
    for name in SOURCES:
        footage.write_scene(folder / f"{name}.mp4", footage.steady(7500))  # 300 s
    words = ("run", *CLIPS, "-d", "data", "--http", "off", "--pace", "realtime")
    with (
        cluster(tmp_path / "cluster", replicas=2) as servers,
        Command(folder, *words, "--store", servers[1].url) as run,
        closing(redis.RedisCluster.from_url(servers[1].url, protocol=2)) as client,
    ):

        def more(name: str) -> None:
            def published() -> int:
                return int(client.hget(f"fg:{{{name}}}:count", "published") or 0)

            before = published()
            wait_until(f"more of {name}", lambda: published() > before + 50)

        for name in SOURCES:
            more(name)
        servers[0].kill()
        for name in reversed(SOURCES):
            more(name)
        run.interrupt()
        assert run.wait().code == 0
        for name in SOURCES:
            entries = client.xrange(f"fg:{{{name}}}:results")
            assert [entry for entry, _ in entries] == [b"1-%d" % n for n in range(len(entries))]


def test_a_slot_keeps_its_cameras_while_another_server_is_lost(tmp_path: Path) -> None:
    """It is the server with the plan of the fleet; that of the camera answers."""
    with (
        cluster(tmp_path / "cluster") as servers,
        ScriptedCamera(lambda: paced(100_000, 10)) as camera,
        closing(Fleet(tmp_path, servers[0].url, "[live]\nstall_s = 60\n")) as at,
        closing(Reader(servers[1].url)) as reader,
    ):

        def published() -> int:
            return int(reader.counters("gate").get("published", 0))

        at.apply({"a": 2.0}, {"gate": {"url": camera.url}})
        slot = at.start("a", "host_a")
        wait_until("results", published)
        servers[2].kill()
        frames_of_15_s = 150  # a slot whose cameras' server is lost closes them after 10 s
        before = published()
        wait_until("more results", lambda: published() > before + frames_of_15_s)
        assert (camera.accepted, camera.open) == (1, 1)
        servers[2].start()
        wait_until("the cluster is whole", lambda: servers[2].knows == 3)
        assert at.status()["slots"][0]["slot"] == "a"
        slot.interrupt()
        assert slot.wait().code == 0
        assert {each["epoch"] for each in reader.results("gate")} == {1}


@pytest.mark.long
def test_a_source_that_moves_to_another_server(folder: Path, expected: Results) -> None:
    with cluster(folder.parent / "cluster") as servers:

        def move(run: Command) -> None:
            slot, there = slot_of("ramp"), servers[2]
            name = there.client.execute_command("CLUSTER MYID")
            servers[0].client.execute_command(
                "CLUSTER MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", name
            )  # Valkey 9 moves a slot with all its keys at once
            left = ("CLUSTER COUNTKEYSINSLOT", slot)
            wait_until("it has moved", lambda: not servers[0].client.execute_command(*left))
            run.says("the cluster gave the source to another server")

        disturbed(folder, servers, move)
        check_results([servers[2], *servers[1:]], expected)


def test_who_holds_what() -> None:
    answer = [
        [0, 8191, [b"10.0.0.1", 7000, b"id"], [b"10.0.0.9", 7000, b"replica"]],
        [8192, 16382, [b"", 7001, b"id"]],
    ]
    nodes = Nodes("rediss://user:p%40ss@seed.example:6379/0?ssl_ca_certs=ca.pem", answer)
    assert nodes.url_of("ramp") == "rediss://user:p%40ss@10.0.0.1:7000/0?ssl_ca_certs=ca.pem"
    assert nodes.url_of("lane") == "rediss://user:p%40ss@seed.example:7001/0?ssl_ca_certs=ca.pem"
    assert Nodes("redis://a", answer[:1]).url_of("lane") is None
    assert len(nodes.urls()) == 2


def test_a_sink_is_told_from_every_server(tmp_path: Path) -> None:
    folder = told_folder(tmp_path / "user", FRAMES)
    for name in SOURCES:
        (folder / f"{name}.mp4").write_bytes((folder / "gate.mp4").read_bytes())
    with receiving() as receiver, cluster(tmp_path / "cluster") as servers:
        ended = framegate(folder, "run", *CLIPS, "-d", "data", "--store", servers[0].url)
        assert ended.code == 0, ended.err
    for name in SOURCES:
        told = [id for id in receiver.ids() if id.startswith(f"{name}/")]
        assert told == [id.replace("gate/", f"{name}/", 1) for id in visits(FRAMES)]
