"""--listen: others may read results over TCP, as `viewer`, and do nothing else."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import redis

from framegate import subscribe
from framegate.cli.main import main
from framegate.pipeline.contracts import keys
from framegate.pipeline.contracts.errors import ConfigFaults, StoreRefused
from framegate.pipeline.run.rpc import find_run
from framegate.pipeline.store import listen
from framegate.pipeline.store.admin import StoreAdmin
from framegate.pipeline.store.embedded import EmbeddedStore
from framegate.pipeline.store.hop import function
from framegate.pipeline.store.listen import GUESTS, PASSWORD_ENV, Listener
from framegate.pipeline.store.redis_client import connect
from framegate.pipeline.store.worker_connections import Link
from framegate.pipeline.system.ports import store_fault
from tests.runs.bad.folders import held_up, open_gate
from tests.support import footage
from tests.support.asked import Asked, service
from tests.support.commands import Command, user_folder
from tests.support.own_servers import free_port
from tests.support.published import Publisher
from tests.support.runs import children, wait_until

pytestmark = pytest.mark.whole_run

FRAMES = 40
PASSWORD = "a pass of 4 words"
QUOTED = "a%20pass%20of%204%20words"


def viewer_url(port: int) -> str:
    return f"redis://viewer:{QUOTED}@127.0.0.1:{port}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = user_folder(tmp_path / "user")
    footage.write_scene(folder / "good.mp4", footage.steady(FRAMES))
    (folder / "viewer.password").write_text(f"{PASSWORD}\n", encoding="utf-8")
    return folder


@contextmanager
def listening(folder: Path) -> Iterator[tuple[EmbeddedStore, str]]:
    """An embedded store that listens, and the viewer's URL."""
    port = free_port()
    door = Listener("127.0.0.1", port, sha256(PASSWORD.encode()).hexdigest())
    store = EmbeddedStore(folder / "store", "everysec", door)
    store.start()
    try:
        yield store, viewer_url(port)
    finally:
        store.stop()


def test_the_viewer_reads_results_and_the_registry(tmp_path: Path) -> None:
    with listening(tmp_path) as (store, url):
        publisher = Publisher(store)
        publisher.results("door", 1, range(3))
        publisher.end("door", 1, 3)
        with subscribe(url, start="earliest", until_end=True) as results:
            assert [result.seq for result in results] == [0, 1, 2]
        with redis.Redis.from_url(url) as viewer:
            stream = keys.results("door")
            assert len(viewer.xread({stream: "0"})[0][1]) == 4
            assert len(viewer.xrange(stream)) == len(viewer.xrevrange(stream)) == 4
            assert viewer.xlen(stream) == 4
            assert viewer.hkeys(keys.SOURCES) == [b"door"]
            publisher.client.xadd(keys.out("door", "zone"), {"k": "frame", "d": "any"})
            assert len(viewer.xrange(keys.out("door", "zone"))) == 1, "what stages give, too"
        publisher.client.close()


FORBIDDEN: list[tuple[Any, ...]] = [
    ("XADD", keys.results("door"), "*", "k", "frame"),
    ("XTRIM", keys.results("door"), "MAXLEN", "0"),
    ("XDEL", keys.results("door"), "1-0"),
    ("XGROUP", "CREATE", keys.results("door"), "g", "0"),
    ("DEL", keys.SOURCES),
    ("HSET", keys.SOURCES, "a", "b"),
    ("HGETALL", keys.SOURCES),
    ("SET", "mine", "1"),
    ("XADD", keys.out("door", "decode"), "*", "k", "frame"),
    ("XLEN", keys.aside("door")),
    ("GET", "fg:anything"),
    ("HKEYS", keys.at("door", "decode")),
    ("HKEYS", keys.count("door")),
    ("KEYS", "*"),
    ("SCAN", "0"),
    ("FLUSHALL",),
    ("FLUSHDB",),
    ("CONFIG", "GET", "requirepass"),
    ("ACL", "LIST"),
    ("ACL", "WHOAMI"),
    ("CLIENT", "LIST"),
    ("CLIENT", "KILL", "TYPE", "normal"),
    ("MONITOR",),
    ("INFO",),
    ("EVAL", "return 1", "0"),
    ("FUNCTION", "FLUSH"),
    ("FCALL", function("release"), "1", keys.own("door"), "x"),
    ("SHUTDOWN", "NOSAVE"),
    ("REPLICAOF", "127.0.0.1", "1"),
    ("SUBSCRIBE", "any"),
    ("PUBLISH", "any", "thing"),
]


def test_the_viewer_may_do_nothing_else(tmp_path: Path) -> None:
    with listening(tmp_path) as (store, url), redis.Redis.from_url(url) as viewer:
        StoreAdmin(store.url).prepare()
        for command in FORBIDDEN:
            with pytest.raises(redis.exceptions.NoPermissionError):
                viewer.execute_command(*command)


def test_nobody_else_enters(tmp_path: Path) -> None:
    """Not without a login, not by another password, over TCP or at the unix socket."""
    with listening(tmp_path) as (store, url):
        for wrong in (
            url.replace(f"viewer:{QUOTED}@", ""),
            url.replace(QUOTED, "another"),
            url.replace(f"viewer:{QUOTED}", f"owner:{QUOTED}"),
            url.replace(f"viewer:{QUOTED}", f":{QUOTED}"),
            f"unix://{store.socket}",
        ):
            with redis.Redis.from_url(wrong) as stranger, pytest.raises(redis.AuthenticationError):
                stranger.ping()


def test_a_group_needs_more_than_a_viewer_may(tmp_path: Path) -> None:
    with listening(tmp_path) as (store, url):
        publisher = Publisher(store)
        publisher.results("door", 1, range(3))
        publisher.client.close()
        refused = pytest.raises(StoreRefused, match=r"viewer of --listen may only read .* groups")
        with subscribe(url, start="earliest", group="g", consumer="c") as results, refused:
            next(results)


def test_a_run_that_listens(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader over TCP gets it all; the passwords are nowhere to be seen."""
    monkeypatch.setenv("XDG_STATE_HOME", str(folder / "state"))
    port = free_port()
    words = ("good.mp4", "-d", "data", "--listen", f"127.0.0.1:{port}")
    with held_up(folder, *words, "--listen-password-file", "viewer.password") as run:
        run.says(f"results can be read at redis://127.0.0.1:{port} by the user viewer")
        started = children(run.process.pid)
        owner = owner_password(folder)
        seen = [said_of(pid) for pid in (run.process.pid, *started)]
        with subscribe(viewer_url(port), ["good"], start="earliest", until_end=True) as results:
            first = next(results)
            open_gate(folder)  # now that it reads: the store goes with the run
            assert [first.seq, *(result.seq for result in results)] == list(range(FRAMES))
        ended = run.wait()
    assert ended.code == 0, ended.err
    kept = [path.read_bytes() for path in (folder / "data").rglob("*") if path.is_file()]
    assert len(owner) == 64
    for secret in (PASSWORD, QUOTED, owner):
        assert secret not in ended.out + ended.err
        assert not any(secret.encode() in said for said in [*seen, *kept])


STRANGERS = 5000


@contextmanager
def strangers(port: int, count: int) -> Iterator[list[socket.socket]]:
    """So many connections to a port that say nothing, as far as it takes them."""
    made = [socket.socket() for _ in range(count)]
    try:
        for each in made:
            each.setblocking(False)
            each.connect_ex(("127.0.0.1", port))
        yield made
    finally:
        for each in made:
            each.close()


def test_strangers_cost_neither_the_stores_connections_nor_those_who_are_in(
    tmp_path: Path,
) -> None:
    """Of 5,000 who do not log in the store meets 64 at most; the run's own and viewers get in."""
    with listening(tmp_path) as (store, url), redis.Redis.from_url(store.url) as owner:
        publisher = Publisher(store)
        publisher.results("door", 1, range(3))
        with redis.Redis.from_url(url) as early:
            assert early.xlen(keys.results("door")) == 3
            with strangers(int(url.rpartition(":")[2]), STRANGERS):
                for _ in range(20):
                    with redis.Redis.from_url(store.url) as another:
                        assert another.ping()
                        assert another.info("clients")["connected_clients"] <= GUESTS + 10
                    assert early.xlen(keys.results("door")) == 3
                with redis.Redis.from_url(url, socket_connect_timeout=60) as late:
                    assert late.xlen(keys.results("door")) == 3
            early_id = early.client_id()
            assert [c for c in owner.client_list() if int(c["id"]) == early_id]
        publisher.client.close()


def test_more_viewers_than_there_is_room_for_are_told_so(tmp_path: Path) -> None:
    with listening(tmp_path) as (_, url):
        viewers = [redis.Redis.from_url(url) for _ in range(GUESTS)]
        assert all(viewer.ping() for viewer in viewers)
        more = redis.Redis.from_url(url)
        with pytest.raises(redis.ConnectionError, match="max number of clients"):
            more.ping()
        viewers[0].close()
        wait_until("a place is free", lambda: more.ping())
        for viewer in (*viewers, more):
            viewer.close()


def test_who_does_not_log_in_in_time_or_says_too_much_is_sent_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And no answer that a stranger can bring about is taken for a login."""
    monkeypatch.setattr(listen, "LOGIN_S", 0.3)
    with listening(tmp_path) as (_, url):
        port = int(url.rpartition(":")[2])
        smuggled = b"*1\r\n$8\r\nA\r\n+OK\r\n\r\n"
        for said in (b"", b"RESET\r\n", b"PING\r\n" * 3, smuggled, b"AUTH viewer wrong\r\n"):
            with socket.create_connection(("127.0.0.1", port), 30) as stranger:
                stranger.sendall(said)
                assert not _received(stranger).count(b"\r\n+OK"), said
        monkeypatch.setattr(listen, "LOGIN_S", 60.0)
        with socket.create_connection(("127.0.0.1", port), 30) as stranger:
            with contextlib.suppress(ConnectionError):
                stranger.sendall(b"x" * 100_000)
            _received(stranger)
        with redis.Redis.from_url(url) as viewer:
            assert viewer.ping()


def _received(stranger: socket.socket) -> bytes:
    """All until it is sent away."""
    said = b""
    with contextlib.suppress(ConnectionError):
        while data := stranger.recv(65536):
            said += data
    return said


def test_viewers_that_do_not_read_cost_bounded_memory(tmp_path: Path) -> None:
    """30 ask for everything and read nothing: 128 MiB at most, and the run's own stay connected."""
    with listening(tmp_path) as (store, url), connect(store.url) as owner:
        pipe = owner.pipeline(transaction=False)
        for number in range(60_000):
            pipe.xadd(keys.results("door"), {"k": "frame", "d": b"x" * 300}, id=f"1-{number + 1}")
        pipe.execute()
        link = Link(store.url)
        link.call("PING")
        kept = {owner.client_id(), int(link.call("CLIENT", "ID"))}
        before = owner.info("memory")["used_memory"]
        port = int(url.rpartition(":")[2])
        ask = f"AUTH viewer {QUOTED}\r\nXRANGE {keys.results('door')} - +\r\n".replace("%20", " ")
        ask = ask.replace(PASSWORD, f'"{PASSWORD}"')
        readers = [socket.create_connection(("127.0.0.1", port)) for _ in range(30)]
        for number, reader in enumerate(readers, 1):
            asked = _asked(owner)
            reader.sendall(ask.encode())
            # The server may disconnect a viewer before its command, to free the memory of others.
            wait_until(
                "it is served or disconnected",
                lambda n=asked, r=reader: _asked(owner) > n or _is_disconnected(r),
            )
            grown = owner.info("memory")["used_memory"] - before
            assert grown < 128 << 20, (number, grown)
        assert owner.info("stats")["evicted_clients"] > 0
        assert kept <= {int(client["id"]) for client in owner.client_list()}
        link.close()
        for reader in readers:
            reader.close()


def _is_disconnected(reader: socket.socket) -> bool:
    """Return whether the other side closed the connection, although data may be unread."""
    established = 1
    return reader.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] != established


def _asked(owner: Any) -> int:
    said = owner.info("commandstats").get("cmdstat_xrange", {"calls": 0})
    calls: int = said["calls"]
    return calls


def test_strangers_at_the_door_of_a_run(folder: Path) -> None:
    """It goes on as if nobody knocked: the store is not killed, all results come."""
    port = free_port()
    words = ("--listen", f"127.0.0.1:{port}", "--listen-password-file", "viewer.password")
    with service(folder, *words) as run:  # it stays until the last result is read
        run.says("results can be read at")
        with (
            subscribe(viewer_url(port), ["good"], start="earliest", until_end=True) as results,
            strangers(port, STRANGERS),
        ):
            Asked(folder).does("add", "good.mp4")
            assert [result.seq for result in results] == list(range(FRAMES))
        run.interrupt()
        ended = run.wait()
    assert ended.code == 0, ended.err
    # The first is about its usual HTTP port, the second comes where the machine is busy.
    usual = ("is taken by", "episodes: some entries were not read")
    warnings = [line for line in ended.err.splitlines() if "WARNING" in line]
    others = [line for line in warnings if not any(words in line for words in usual)]
    assert others == [], ended.err


def owner_password(folder: Path) -> str:
    """What the run tells programs of the same user, at a socket in its data folder."""

    def url() -> str | None:
        try:
            return find_run(folder / "data").store
        except ConfigFaults:  # it begins
            return None

    said: str = wait_until("the run can be asked", url)
    return said.partition("owner:")[2].partition("@")[0]


def said_of(pid: int) -> bytes:
    """A process's command line and environment."""
    return b"".join(Path(f"/proc/{pid}/{name}").read_bytes() for name in ("cmdline", "environ"))


def test_the_password_in_a_variable_is_kept_from_children(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PASSWORD_ENV, PASSWORD)
    words = ("good.mp4", "-d", "data", "--listen", f"127.0.0.1:{free_port()}")
    with held_up(folder, *words) as run:
        run.says("results can be read at")
        seen = [said_of(pid) for pid in children(run.process.pid)]
        open_gate(folder)
        assert run.wait().code == 0
    assert seen
    assert not any(PASSWORD.encode() in said for said in seen)


def test_what_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    (folder / "short.password").write_text("seven77\n", encoding="utf-8")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        free = f"127.0.0.1:{free_port()}"
        file = ("--listen-password-file", "viewer.password")
        cases = {
            ("--listen", free): "it needs a password for its user viewer: in a file ",
            ("--listen", f"127.0.0.1:{port}", *file): f"--listen 127.0.0.1:{port}: Address already",
            ("--listen", "127.0.0.1", *file): "must be HOST:PORT, such as ",
            ("--listen", "192.0.2.1:6379", *file): "give an address of this host",
            ("--listen", free, "--listen-password-file", "none"): "this file cannot be read",
            (
                "--listen",
                free,
                "--listen-password-file",
                "short.password",
            ): "it must have at least 8",
            file: "store.listen_password_file: needs store.listen",
            (
                "--listen",
                free,
                *file,
                "--store",
                "redis://127.0.0.1:1",
            ): "only for the embedded store",
        }
        for words, said in cases.items():
            assert main(["run", "good.mp4", "-d", "data", *words]) == 2, words
            assert said in capsys.readouterr().err, words
            assert not (folder / "data").exists()


def test_an_open_address_is_warned_of(folder: Path) -> None:
    words = ("--listen", f"0.0.0.0:{free_port()}", "--listen-password-file", "viewer.password")
    with Command(folder, "run", "good.mp4", *words) as run:
        ended = run.wait()
    assert ended.code == 0
    assert "passwords and results go over the network in the clear" in ended.err


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ("127.0.0.1:6379", True),
        ("[::1]:1", True),
        ("box.example:65535", True),
        ("127.0.0.1:65536", False),
        ("127.0.0.1:0", False),
        (":6379", False),
        ("..:6379", False),
        ("::1:6379", False),
        ("host name:1", False),
        ("a\nuser x on nopass +@all:1", False),
    ],
)
def test_addresses(text: str, fits: bool) -> None:
    assert (store_fault(text) is None) == fits
