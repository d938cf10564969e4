"""What strangers say to a run: over HTTP, at its sockets, in its files, to its store; and secrets.

Each is answered, or refused in our words; nothing ends, and nothing is written by half.
"""

from __future__ import annotations

import json
import socket
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
import pytest
import redis
from hypothesis import example, given
from hypothesis import strategies as st

from framegate.pipeline.config.config import packaged_text, read_config
from framegate.pipeline.config.sources import derived_name
from framegate.pipeline.contracts import keys
from framegate.pipeline.contracts.errors import ConfigFaults, DataFolderRefused, Exit
from framegate.pipeline.contracts.records import Position
from framegate.pipeline.contracts.redaction import shown, without
from framegate.pipeline.engine import control_messages
from framegate.pipeline.engine.control_messages import (
    Call,
    EndPassed,
    GetSharedMemory,
    Pong,
    RecordInHand,
    reply_of,
)
from framegate.pipeline.run.folder import RunFile, RunFolder, RunSource
from framegate.pipeline.run.rpc import (
    Add,
    GetCounts,
    GetSources,
    Remove,
    RollBack,
    Use,
    control_socket,
)
from framegate.pipeline.store.admin import StoreAdmin
from framegate.pipeline.store.hop import (
    FRAME,
    Commit,
    Entry,
    SetAside,
    SourceHop,
    attach_command,
    await_command,
    epoch_command,
    function,
    hop_command,
    trim_command,
)
from tests.fuzz.budget import fuzz
from tests.fuzz.mutated import data_like, json_values, tables_like
from tests.support.own_servers import free_port
from tests.support.runs import DEADLINE_S, Run, children, wait_until
from tests.support.servers import server

pytestmark = pytest.mark.whole_run

RUN = "run-1"
SECRET = "Hunter22"
DEEP = b'{"v":3,"x":' + b"[" * 100_000
PACKAGED = packaged_text()
REQUESTS = (
    b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/plain\r\n\r\n",
    b"GET /api/v1/sources HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    b"GET /snapshot/gate.jpg?plain=1&width=640 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    b"GET /live?sources=gate,a HTTP/1.1\r\nHost: [::1]\r\n\r\n",
    b"GET /stream/gate.mjpg HTTP/1.0\r\nHost: localhost\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"4\r\nabcd\r\n0\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: upgrade\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
)
TRIAL = (
    b"POST /api/v1/rules/trial HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
)
SOURCE = RunSource("rtsp://127.0.0.1:9/none", name="gate", live=True)
QUESTIONS = tuple(
    msgspec.json.encode(question) + b"\n"
    for question in (
        GetSources(), GetCounts(), Remove(["nobody"]), Use("light", ["nobody"]),
        RollBack(["nobody"]), Add([SOURCE]),
    )
)  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Run, int]]:
    """A run with a camera that is off, and its HTTP port. It is sound at the end."""
    folder = tmp_path_factory.mktemp("doors")
    port = free_port()
    run = Run(folder / "data", "gate=rtsp://127.0.0.1:9/gate", "--http", f"127.0.0.1:{port}")
    try:
        wait_until("it answers", lambda: b'"state":"connecting"' in said_to(port, REQUESTS[1]))
        begun = set(children(run.process.pid))
        yield run, port
        assert begun <= set(children(run.process.pid)), "every process lives"
        assert b'"state":"connecting"' in said_to(port, REQUESTS[1])
        run.process.terminate()
        assert run.wait() == Exit.DONE
        said = run.log.read_text(encoding="utf-8")
        assert "Traceback" not in said, said[said.index("Traceback") - 500 :][:6000]
    finally:
        run.kill()


def said_to(port: int, data: bytes, patience_s: float = 60.0) -> bytes:
    """What is answered until the other side hangs up, or says nothing for so long."""
    answer = b""
    try:
        with socket.create_connection(("127.0.0.1", port), 20) as caller:
            caller.sendall(data)
            caller.settimeout(patience_s)
            while (more := caller.recv(65536)) and len(answer) < 1 << 20:
                answer += more
    except (ConnectionError, TimeoutError):
        pass
    return answer


@pytest.fixture(scope="module")
def doors(run: tuple[Run, int]) -> tuple[Run, int]:
    RUNNING[:] = [run]
    return run


RUNNING: list[tuple[Run, int]] = []


@pytest.mark.usefixtures("doors")
def test_any_request_over_http_is_answered_or_hung_up_on() -> None:
    @fuzz(50)
    @given(data=data_like(*REQUESTS))
    @example(REQUESTS[0].replace(b"text/plain", b"application/openmetrics-text;version=x"))
    @example(REQUESTS[5].replace(b"\r\n4\r\n", b"\r\n4\r\n99"))
    @example(TRIAL + b"Origin: http://[\r\nContent-Length: 2\r\n\r\n{}")
    @example(TRIAL + b'Content-Length: 14\r\n\r\n{"source":"\xff"}')
    def target(data: bytes) -> None:
        _, port = RUNNING[0]
        answer = said_to(port, data, 0.05)
        assert b" 500 " not in answer.partition(b"\r\n")[0], (data, answer)

    target()


@pytest.mark.usefixtures("doors")
def test_any_words_at_the_control_socket_get_an_answer() -> None:
    @fuzz(60)
    @given(data=data_like(*QUESTIONS).filter(lambda data: b'"Add"' not in data or b"gate" in data))
    @example(b'{"type":"Remove","names":' + b"[" * 100_000 + b"\n")
    @example(b"x" * (1 << 21))
    def target(data: bytes) -> None:
        run, _ = RUNNING[0]
        answer = asked(run.folder, data)
        if b"\n" in data and len(data) < 1 << 20:
            assert json.loads(answer)["type"], (data, answer)
        assert json.loads(asked(run.folder, QUESTIONS[0]))["type"] == "SourceList"

    target()


def asked(folder: Path, data: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX) as line, control_socket(folder) as at:
        line.settimeout(DEADLINE_S)
        line.connect(at)
        try:
            line.sendall(data)
            line.shutdown(socket.SHUT_WR)
            return line.makefile("rb").readline()
        except ConnectionError:
            return b""


WORDS = tuple(
    msgspec.json.encode(word)
    for word in (
        Call(1, GetSharedMemory("gate", "form", 4096)),
        RecordInHand("gate", "detect", Position(1, 2)),
        EndPassed("gate", "cache"), reply_of(2, Pong(3, ["gate"])),
    )
)  # fmt: skip


@fuzz()
@given(data=data_like(*WORDS))
@example(b'{"type":"CallReply","number":1,"value":' + b"[" * 20_000)
@example(control_messages.IN_A_FILE)
def test_a_worker_that_talks_nonsense_is_a_worker_that_hung_up(data: bytes) -> None:
    ours, theirs = control_messages.make_pair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.send(data[:30_000] or b"x")
        try:
            message = control_messages.receive_from_child(ours)
        except (control_messages.MessageLost, OSError):
            return
        assert message is None or isinstance(message, msgspec.Struct)


def as_toml(value: Any) -> str:
    """A value as TOML says it."""
    match value:
        case bool():
            return "true" if value else "false"
        case int() | float():
            return str(value)
        case dict():
            return f"{{ {', '.join(f'{as_toml(k)} = {as_toml(v)}' for k, v in value.items())} }}"
        case list():
            return f"[{', '.join(map(as_toml, value))}]"
        case _:
            text = str(value or "").encode("utf-8", "replace").decode()
            return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def tables(data: Any) -> str:
    return "\n".join(f"{as_toml(key)} = {as_toml(value)}" for key, value in data.items())


MORE = {
    **tomllib.loads(PACKAGED),
    "sources": {"gate": {"url": "rtsp://cam/1", "frames": {"max_fps": 5}, "live": True}},
    "promise": {"measure": "counts", "alpha": 0.01, "frames": 1000},
}


@fuzz()
@given(text=tables_like(MORE).map(tables) | data_like(PACKAGED.encode()).map(
    lambda data: data.decode(errors="replace")))  # fmt: skip
@example("a = " + "[" * 5000)
@example(tables(MORE))
def test_a_configuration_is_read_or_all_its_faults_are_told(text: str) -> None:
    try:
        read_config("pipeline.toml", text)
    except ConfigFaults as wrong:
        told = wrong.faults
    else:
        return
    assert told
    assert all(told)


RUN_FILE = msgspec.json.encode(RunFile("r1", "i1", (SOURCE,), True))


@fuzz()
@given(data=data_like(RUN_FILE) | tables_like(json.loads(RUN_FILE)).map(
    lambda table: json.dumps(table).encode()))  # fmt: skip
@example(DEEP)
@example(RUN_FILE.replace(b'"gate"', b'"ga}te"'))
def test_a_run_json_is_read_or_refused(data: bytes) -> None:
    with tempfile.TemporaryDirectory(prefix="fg-") as made:
        folder = Path(made) / "data"
        folder.mkdir()
        (folder / "run.json").write_bytes(data)
        run = RunFolder(folder, made_by_us=False)
        try:
            read = run.read()
        except DataFolderRefused:
            return
        finally:
            run.close(keep=True)
        assert read is not None
        assert all(keys.is_name(source.name) for source in read.sources), read


def commit(stage: str, token: str, last: int, begun: int = 0) -> Commit:
    return Commit(
        stage=stage,
        out=keys.out("a", stage),
        token=token.encode(),
        previous=Position(1, begun) if begun else Position(0, 0),
        last=Position(1, last),
        entries=(Entry(Position(1, last), FRAME, b"data"),),
        counts=(("decoded", 1), ("dropped:late", 2)),
        asides=(SetAside("detect", Position(1, last), "stage_error", b"bytes"),),
    )


CALLS = (
    hop_command([SourceHop("a", (commit("decode", "1", 5),))]),
    hop_command([
        SourceHop("a", (commit("decode", "1", 6), commit("window", "1", 6))),
        SourceHop("b", (commit("decode", "1", 3),)),
    ]),
    attach_command("a", "decode", RUN),
    await_command("a", "decode", Position(1, 9)),
    epoch_command("a", "1", RUN),
    trim_command("a", keys.out("a", "decode"), ("window",)),
    ("FCALL", function("claim"), "1", keys.own("a"), "run-2", "other", "1", "0"),
    ("FCALL", function("release"), "1", keys.own("a"), RUN, "1"),
    ("FCALL", function("announce"), "1", keys.own("a"), RUN, "model@1 host:/models/1"),
    ("FCALL", function("detach"), "2", keys.room("a"), keys.at("a", "window")),
)  # fmt: skip
ODD = st.sampled_from(
    [b"", b"0", b"1", b"-1", b"0-0", b"1-99", b"x", b"1e3", b"9" * 18, b"9" * 30, b"1-" + b"9" * 25,
     b"18446744073709551615-18446744073709551615", b"nan", b"0x10", b" 1", b"1.5", b"\x00\xff",
     keys.own("a").encode(), keys.room("a").encode(), keys.out("a", "decode").encode(),
     keys.count("a").encode(), keys.at("a", "decode").encode()],
)  # fmt: skip


@st.composite
def calls(draw: st.DrawFn) -> list[bytes]:
    """A call of ours with some words replaced, taken away, doubled or added."""
    chosen = draw(st.sampled_from(CALLS))
    words = [word if isinstance(word, bytes) else word.encode() for word in chosen]
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(2, len(words)))
        what = draw(st.integers(0, 3))
        if what == 0:
            words[at : at + 1] = [draw(ODD)]
        elif what == 1 and len(words) > 3:
            del words[at : at + 1]
        else:
            words.insert(at, draw(ODD))
    return words


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with server(tmp_path_factory.mktemp("s")) as embedded:
        ours = StoreAdmin(embedded.url)
        ours.prepare()
        ours.close()
        with redis.Redis.from_url(embedded.url, protocol=2) as client:
            STORES[:] = [client]
            yield client


STORES: list[Any] = []


def begun(client: Any, odd: int) -> None:
    """Two sources as a run has them; one key of them of another kind, or odd inside."""
    client.flushdb()
    for source in ("a", "b"):
        client.execute_command(
            "FCALL", function("claim"), 1, keys.own(source), RUN, "the test", "0", "0"
        )
        for stage in ("decode", "window"):
            client.execute_command(*attach_command(source, stage, RUN))
    every = [
        keys.count("a"), keys.room("a"), keys.aside("a"), keys.out("a", "decode"),
        keys.at("a", "window"), keys.own("a"), keys.count("b"),
    ]  # fmt: skip
    if odd < len(every):
        client.delete(every[odd])
        client.set(every[odd], "odd")
    elif odd == len(every):
        client.hset(keys.count("a"), "dropped:late", "many")
    elif odd == len(every) + 1:
        client.hset(keys.at("a", "decode"), mapping={"w": "odd"})
    elif odd == len(every) + 2:
        client.hset(keys.own("a"), "generation", "odd")
    elif odd == len(every) + 3:
        client.hset(keys.at("a", "decode"), "t", "odd")


def all_of(client: Any) -> dict[bytes, Any]:
    """What everything holds, by key."""
    found = {}
    for key in client.scan_iter():
        match client.type(key):
            case b"hash":
                found[key] = client.hgetall(key)
            case b"stream":
                found[key] = client.xrange(key)
            case b"zset":
                found[key] = client.zrange(key, 0, -1)
            case _:
                found[key] = client.get(key)
    return found


@pytest.mark.usefixtures("store")
def test_a_call_to_the_store_is_done_or_refused_whole() -> None:
    refusals = 0

    @fuzz(60)
    @given(words=calls() | st.sampled_from(CALLS).map(list), odd=st.integers(0, 30))
    def target(words: list[Any], odd: int) -> None:
        nonlocal refusals
        client = STORES[0]
        begun(client, odd)
        before = all_of(client)
        try:
            answer = client.execute_command(*words)
        except redis.ResponseError:
            answer = [[b"ERROR"]]
        if isinstance(answer, list) and answer and isinstance(answer[0], list):
            refused = [one[0] != b"OK" for one in answer]
            if all(refused):
                assert all_of(client) == before, words
                refusals += 1

    target()
    assert refusals


@fuzz(400)
@given(
    head=st.text(st.characters(), max_size=20),
    path=st.text("abzAZ09/._-=&;:%?#@+ ", max_size=30),
    name=st.sampled_from(["password=", "pwd=", "token/", "auth=", "key=", "PassWord%3D", "sig="]),
    tail=st.text("abz09/&;=_?#@% ", max_size=20),
)
def test_a_named_secret_is_in_nothing_that_is_said(
    head: str, path: str, name: str, tail: str
) -> None:
    for secret in (SECRET, quote(SECRET[:4]) + "%32%32"[:0] + SECRET[4:]):
        url = f"rtsp://cam/{path}/{name}{secret}{tail}"
        assert SECRET not in shown(url), url
        assert SECRET.lower() not in derived_name(url), url
        if " " not in path:
            assert SECRET not in without(f"{head} {url}", ()), url


@fuzz()
@given(text=st.text(st.characters(), max_size=300), more=json_values)
@example("://" * 5000, None)
@example("rtsp://a:" + "@b:" * 20_000, None)
def test_hiding_secrets_never_fails_nor_takes_long(text: str, more: Any) -> None:
    for said in (text, f"{text}://{more}", f"x://{text}@{more}/{text}"):
        assert isinstance(without(said, ()), str)
