"""A cluster as the store: each source on its server, and results as always.

Also when a server dies and comes back, and when a source moves to another server meanwhile.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from framegate import subscribe
from framegate.pipeline.store.cluster import Nodes, slot_of
from tests.runs.bad.folders import held_up, open_gate
from tests.runs.test_sinks import told_folder, visits
from tests.stores.test_own_redis import timeless
from tests.support import footage
from tests.support.clusters import Server, cluster
from tests.support.commands import Command, Reader, framegate, user_folder
from tests.support.runs import wait_until
from tests.support.webhooks import receiving

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
        shown = framegate(folder, "watch", "--store", servers[2].url, "--json", "--once")
        views = {view["source"]: view["published"] for view in json.loads(shown.out)}
        assert views == dict.fromkeys(SOURCES, FRAMES)


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
