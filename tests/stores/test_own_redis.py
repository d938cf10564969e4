"""Your own Redis or Valkey: over TLS, with a user of its own, in any database.

The results must be those of the embedded store, and no password is shown or written down anywhere.
"""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import redis

from framegate import subscribe
from framegate.pipeline.contracts.errors import StoreLost, StoreRefused
from framegate.pipeline.store.admin import StoreAdmin
from framegate.pipeline.store.worker_connections import Links
from tests.support import footage
from tests.support.commands import Command, Reader, framegate, user_folder
from tests.support.fleets import Fleet
from tests.support.own_servers import PROGRAMS, Certificates, needs, own_server
from tests.support.runs import children, wait_until
from tests.support.stream_checker import checked

pytestmark = pytest.mark.whole_run

FRAMES = 40
VARIABLE = "FRAMEGATE_TEST_STORE"
TIMES = {"captured", "published"}

programs = pytest.mark.parametrize("program", [needs(program) for program in PROGRAMS])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = user_folder(tmp_path / "user")
    footage.write_scene(folder / "good.mp4", footage.steady(FRAMES))
    return folder


def timeless(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What two runs of one file must have in common."""
    return [{k: v for k, v in result.items() if k not in TIMES} for result in results]


def embedded_results(folder: Path) -> list[dict[str, Any]]:
    return timeless(framegate(folder, "run", "good.mp4", "--json").results("good"))


def said_everywhere(folder: Path, *command_lines: list[str]) -> bytes:
    """All that a run left in its folder, data and logs, and the given command lines."""
    files = [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
    return b"\n".join([*files, *(" ".join(line).encode() for line in command_lines)])


@programs
def test_a_run_over_tls_with_a_user_and_a_database(
    program: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server wants a client certificate; the files are named in pipeline.toml."""
    expected = embedded_results(folder)
    with own_server(program, folder.parent / "own", client_certificates="yes") as server:
        monkeypatch.setenv(VARIABLE, server.url("rediss", database=3))
        files = server.certificates
        store = f"""[store]
url_env = "{VARIABLE}"
tls_ca = "{files.ca}"
tls_cert = "{files.client}"
tls_key = "{files.client_key}"
"""
        user_folder(folder, more=store)
        with Command(folder, "run", "good.mp4", "--json", "-d", "data") as run:
            run.says("frames")
            lines = list(children(run.process.pid).values())
            ended = run.wait()
        assert ended.code == 0, ended.err
        assert timeless(ended.results("good")) == expected
        reader = Reader(server.admin_url(database=3))
        assert timeless(reader.whole("good", FRAMES)) == expected
        assert server.admin().keys("*") == []
        reader.close()
        left = said_everywhere(folder, *lines)
        assert server.password.encode() not in left
        assert quote(server.password, safe="").encode() not in left


@programs
def test_a_slot_and_its_fleet_over_tls(program: str, tmp_path: Path, folder: Path) -> None:
    """The server wants a client certificate; the URL names the files."""
    with own_server(program, tmp_path / "own", client_certificates="yes") as server:
        files = server.certificates
        url = (
            f"{server.url('rediss')}?ssl_ca_certs={files.ca}"
            f"&ssl_certfile={files.client}&ssl_keyfile={files.client_key}"
        )
        with closing(Fleet(tmp_path / "fleet", url, "")) as at, checked(url, "good"):
            at.apply({"a": 2.0}, {"good": {"url": str(folder / "good.mp4")}})
            slot = at.start("a", "host_a")
            wait_until("it is published to its end", lambda: at.ended("good"))
            at.reader.whole("good", FRAMES)
            [state] = at.status()["slots"]
            assert state["slot"] == "a"
            slot.interrupt()
            assert slot.wait().code == 0


@programs
def test_a_run_over_a_unix_socket_with_a_user(
    program: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with own_server(program, folder.parent / "own") as server:
        monkeypatch.setenv(VARIABLE, server.url("unix", database=1))
        ended = framegate(folder, "run", "good.mp4", "--store", f"env:{VARIABLE}", "-d", "data")
        assert ended.code == 0, ended.err
        shown = framegate(folder, "watch", "--store", f"env:{VARIABLE}", "--once", "--json")
        assert f'"published":{FRAMES}' in shown.out, shown.err
        Reader(server.admin_url(database=1)).whole("good", FRAMES)


@programs
def test_results_are_followed_over_tls(program: str, tmp_path: Path, folder: Path) -> None:
    """framegate.pipeline.client takes the files from the URL's query, as redis-py does."""
    with own_server(program, tmp_path / "own") as server:
        url = f"{server.url('rediss')}?ssl_ca_certs={server.certificates.ca}"
        with Command(folder, "run", "good.mp4", "--store", url, "-d", "data") as run:
            with subscribe(url, ["good"], start="earliest", until_end=True) as results:
                seqs = [result.seq for result in results]
            assert run.wait().code == 0
        assert seqs == list(range(FRAMES))


@programs
def test_the_user_that_is_recommended_may_do_no_harm(program: str, tmp_path: Path) -> None:
    with own_server(program, tmp_path / "own") as server:
        server.admin().set("theirs", "1")
        user = redis.Redis.from_url(server.url("redis"))
        for command in (["FLUSHALL"], ["CONFIG", "GET", "*"], ["GET", "theirs"], ["SHUTDOWN"]):
            with pytest.raises(redis.exceptions.NoPermissionError):
                user.execute_command(*command)
        user.close()


def prepared(url: str) -> str:
    """What is said of a store that cannot be used."""
    with pytest.raises((StoreRefused, StoreLost)) as said:
        StoreAdmin(url).prepare()
    return str(said.value)


@programs
def test_what_is_wrong_with_the_connection_is_said(program: str, tmp_path: Path) -> None:
    with own_server(program, tmp_path / "own", client_certificates="yes") as server:
        files, login = server.certificates, server.login
        with_ca = f"{server.url('rediss')}?ssl_ca_certs={files.ca}"
        whole = f"{with_ca}&ssl_certfile={files.client}&ssl_keyfile={files.client_key}"
        plain, other_name = server.url("redis"), whole.replace("localhost", "127.0.0.1")
        strange = Certificates(tmp_path / "strange").ca
        said = {
            plain.replace(login, "framegate:not-it"): "refuses the login: ",
            plain.replace(f"{login}@", ""): "refuses the login: ",
            plain.replace(f":{server.port}", f":{server.tls_port}"): "speaks TLS: use rediss://",
            server.url("rediss"): "has a certificate that is not trusted: ",
            whole.replace(str(files.ca), str(strange)): "has a certificate that is not trusted: ",
            other_name: "has a certificate for another name: ",
            with_ca: "wants a client certificate that it trusts: ",
        }
        for url, words in said.items():
            found = prepared(url)
            assert words in found, url
            assert server.password not in found
        assert (
            StoreAdmin(f"{other_name}&ssl_check_hostname=false").prepare()
            == StoreAdmin(whole).prepare()
        )


@pytest.mark.parametrize("program", [needs("redis-server")])
def test_a_plain_port_is_told_from_one_with_tls(program: str, tmp_path: Path) -> None:
    """The server waits for the end of a line that never comes: it takes all of one's patience."""
    with own_server(program, tmp_path / "own") as server:
        url = server.url("rediss").replace(str(server.tls_port), str(server.port))
        found = prepared(f"{url}?socket_timeout=3")
    assert "speaks no TLS on this port: use redis://" in found
    assert server.password not in found


@pytest.mark.parametrize("program", [needs("redis-server")])
def test_a_run_that_is_refused_leaves_nothing(program: str, folder: Path) -> None:
    with own_server(program, folder.parent / "own") as server:
        url = server.url("redis").replace(server.login, "framegate:not-it")
        ended = framegate(folder, "run", "good.mp4", "--store", url, "-d", "data")
    assert ended.code == 3
    assert "refuses the login: " in ended.err
    assert "not-it" not in ended.err
    assert "--store: other users of this host can see a password on the command line" in ended.err
    assert not (folder / "data").exists()


@programs
def test_a_missing_permission_is_named_with_what_is_needed(program: str, folder: Path) -> None:
    rules = {
        "~fg:* +@all -@dangerous": "'info'",
        "~fg:* +@all -@dangerous +info -function": "'function|l",
        "~other:* +@all -@dangerous +info": "key",
        "~fg:* +@all -@dangerous +info -xadd": "xadd",
        "~fg:* +@all -@dangerous +info -xread": "xread",
    }
    user_folder(folder, apart=True)  # who reads what another worker wrote needs xread
    with own_server(program, folder.parent / "own") as server:
        for rule, named in rules.items():
            server.admin().execute_command("ACL", "SETUSER", "framegate", "reset")
            words = ["on", f">{server.password}", *rule.split()]
            server.admin().execute_command("ACL", "SETUSER", "framegate", *words)
            ended = framegate(folder, "run", "good.mp4", "--store", server.url("redis"), "-d", "x")
            assert ended.code == 3, (rule, ended.err)
            assert named in ended.err, (rule, ended.err)
            assert "ACL SETUSER framegate on >PASSWORD ~fg:* " in ended.err, (rule, ended.err)


@programs
def test_a_server_of_a_cluster_that_refuses_at_first_is_looked_for_on(
    program: str, tmp_path: Path
) -> None:
    """It is up before its users have their permissions; its sources must not wait for ever."""
    with own_server(program, tmp_path / "own") as server, closing(server.admin()) as admin:
        admin.execute_command("ACL", "SETUSER", "framegate", "-exists")
        with closing(Links(server.url("redis"))) as links:
            looking = threading.Thread(target=links._await_server, args=("gate",), daemon=True)
            looking.start()
            wait_until("it was refused", lambda: bool(admin.execute_command("ACL", "LOG")))
            admin.execute_command("ACL", "SETUSER", "framegate", "+exists")
            wait_until("it is found again", lambda: links.has_changed)


@programs
def test_the_documented_configuration_loads_all_transactions_after_a_restart(
    program: str, tmp_path: Path
) -> None:
    """Redis 8 and Valkey 8 load them with the rights of the user `default`, also if it is off."""
    page = Path(__file__).parents[2] / "docs" / "fleet.md"
    recipe = page.read_text(encoding="utf-8").split("```")[1].splitlines()
    lines = [line for line in recipe if line.split()[:1] not in ([], ["bind"])]
    assert any(line.startswith("user default off") for line in lines)
    socket = tmp_path / "own.sock"
    lines += ["port 0", f"unixsocket {socket}", f"dir {tmp_path}", 'save ""']
    config = "\n".join(lines).encode()
    url = f"unix://framegate:PASSWORD@{socket}"
    with started(program, config), closing(redis.Redis.from_url(url)) as client:
        wait_until("it answers", lambda: answers(client))
        with client.pipeline(transaction=True) as pipe:
            pipe.set("fg:one", 1).set("fg:two", 2).execute()
    with started(program, config), closing(redis.Redis.from_url(url)) as client:
        wait_until("it has loaded its file", lambda: answers(client))
        assert client.mget("fg:one", "fg:two") == [b"1", b"2"]
        with pytest.raises(redis.AuthenticationError):
            redis.Redis.from_url(f"unix://{socket}").ping()


@contextmanager
def started(program: str, config: bytes) -> Iterator[None]:
    """Run a server with this configuration for the length of a block."""
    process = subprocess.Popen([program, "-"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    assert process.stdin is not None
    with process.stdin as stdin:
        stdin.write(config + b"\n")
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def answers(client: Any) -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:  # it starts, or loads
        return False
