"""Heavy workers and a KServe server behind a link that is slow, loses packets, is cut and heals."""

from __future__ import annotations

import hashlib
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.link import PHASES, Work, questions, run
from tests.support import footage
from tests.support.heavy_process import POLICY
from tests.support.kserve import told_model
from tests.support.links import link
from tests.support.own_servers import free_port
from tests.support.runs import environment
from tests.support.shaping import Shape

pytestmark = pytest.mark.long

needs_kserve = pytest.mark.skipif(
    importlib.util.find_spec("tritonclient") is None, reason="the extra kserve is not installed"
)
# One greets with what it got, hashed; the other sends a megabyte and says what it heard.
_SERVER = """
import hashlib, socket, sys
ear = socket.create_server(("127.0.0.1", int(sys.argv[1])))
print("listens", flush=True)
line, _ = ear.accept()
got = bytearray()
while data := line.recv(65536):
    got += data
line.sendall(hashlib.sha256(got).hexdigest().encode())
line.close()
"""
_CLIENT = """
import socket, sys
host, _, port = sys.argv[1].rpartition(":")
with socket.create_connection((host, int(port))) as line:
    line.sendall(sys.stdin.buffer.read())
    line.shutdown(socket.SHUT_WR)
    print(line.recv(64).decode())
"""


@pytest.mark.parametrize(
    "shape", [Shape(), Shape(0.01, 50e6 / 8), Shape(0.001, loss=0.2)], ids=["bare", "slow", "lossy"]
)
def test_what_goes_through_arrives_whole_and_in_order(shape: Shape) -> None:
    sent = b"".join(n.to_bytes(4, "big") for n in range(250_000))
    with link() as between:
        between.take(shape)
        port = free_port()
        server = subprocess.Popen(
            [*between.far, sys.executable, "-c", _SERVER, str(port)],
            stdout=subprocess.PIPE,
            env=environment(),
        )
        assert server.stdout is not None
        server.stdout.readline()
        at = between.expose("far", f"127.0.0.1:{port}")
        command = [*between.near, sys.executable, "-c", _CLIENT, at]
        heard = subprocess.run(command, input=sent, capture_output=True, check=True)
        server.communicate()
    assert heard.stdout.decode().strip() == hashlib.sha256(sent).hexdigest()


@pytest.mark.parametrize(
    ("place", "policy"),
    [
        ("workers", POLICY),
        pytest.param("kserve_grpc", told_model.POLICY, marks=needs_kserve),
        pytest.param("kserve_http", told_model.POLICY, marks=needs_kserve),
    ],
)
def test_questions_end_once_and_the_breaker_opens_and_closes(
    tmp_path: Path, place: str, policy: str
) -> None:
    clip = footage.write_scene(tmp_path / "clip.mp4", footage.steady(50), size=(640, 360))
    work = Work(clip, policy, seconds=4.0, per_second=4.0, deadline_s=0.5, told=True)
    kind, rows = run(place, work, questions)
    print(kind)
    assert rows["all"]["ended_once"]
    assert rows["all"]["asked"] == pytest.approx(4 * sum(s for _, _, s in work.phases), abs=2)
    assert rows["all"]["times_fewer_than_raw"] >= 10
    for name, _ in PHASES:
        assert sum(rows[name]["outcomes"].values()) > 0
    assert rows["whole"]["outcomes"].get("answered", 0) > 0
    assert rows["healed"]["outcomes"].get("answered", 0) > 0
    assert rows["cut"]["outcomes"].get("breaker_open", 0) > 0
    assert rows["cut"]["outcomes"].get("late", 0) > 0
    assert "open" in rows["cut"]["breaker"]
    assert (rows["cut"]["breaker"] + rows["healed"]["breaker"])[-1] == "closed"
