"""The HTTP port of real runs: what it says agrees with the store, and it costs nothing unasked."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import redis
from prometheus_client.parser import text_string_to_metric_families

from framegate.cli.main import main
from framegate.pipeline.contracts.errors import Exit
from framegate.pipeline.contracts.source import Form
from framegate.pipeline.shared_memory.frame_store import frame_store_bytes
from framegate.pipeline.store.admin import StoreAdmin
from tests.support.commands import framegate
from tests.support.footage import bikes, scene, steady, write_scene
from tests.support.own_servers import free_port
from tests.support.runs import DEADLINE_S, Run, children, environment, wait_until

pytestmark = pytest.mark.whole_run

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
SECRET = "tulip-4711"
IN_A_PATH = "tulip4712"  # as recorders want it


def get(port: int, path: str, headers: dict[str, str] | None = None) -> tuple[int, str]:
    asked = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers=headers or {})
    try:
        with urllib.request.urlopen(asked, timeout=DEADLINE_S) as answer:
            return answer.status, answer.read().decode(errors="replace")
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except urllib.error.URLError:
        return 0, "nobody listens"


Samples = dict[str, dict[tuple[tuple[str, str], ...], float]]


def scraped(port: int) -> Samples:
    """Samples by name and labels."""
    status, text = get(port, "/metrics")
    assert status == 200, text
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = tuple(sorted(sample.labels.items()))
            found.setdefault(sample.name, {})[labels] = sample.value
    return found


def web_process(run: Run) -> int | None:
    for pid, command in children(run.process.pid).items():
        if command[1:3] == ["-m", "framegate.pipeline.web.server"]:
            return pid
    return None


@pytest.fixture(scope="module")
def staying(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Run, int]]:
    """A run that is ready: a short clip, done, and a camera that is off, so that it goes on."""
    folder, port = tmp_path_factory.mktemp("http"), free_port()
    clip = write_scene(folder / "short.mp4", steady(20))
    camera = f"rtsp://watcher:{SECRET}@127.0.0.1:{free_port()}/gate"
    address = f"127.0.0.1:{port}"
    recorder = f"rtsp://127.0.0.1:{free_port()}/user=a&password={IN_A_PATH}&channel=1&stream=0.sdp"
    away = (f"gate={camera}", f"yard={recorder}", recorder)
    run = Run(folder / "data", f"short={clip}", *away, "--http", address)
    try:
        wait_until("the run is ready", lambda: get(port, "/readyz")[0] == 200)
        wait_until("the clip is done", lambda: _state(port, "short") == "finished")
        yield run, port
        run.process.send_signal(signal.SIGINT)
        assert run.wait() == Exit.DONE
        assert get(port, "/healthz")[0] == 0
        for secret in (SECRET, IN_A_PATH):
            assert secret not in run.log.read_text(encoding="utf-8")
    finally:
        run.kill()


def _state(port: int, source: str) -> str | None:
    status, text = get(port, "/api/v1/sources")
    listed = json.loads(text) if status == 200 else []
    return next((told["state"] for told in listed if told["source"] == source), None)


def test_what_ended_shows_its_last_picture_and_keeps_nothing_else(
    staying: tuple[Run, int],
) -> None:
    """No memory: the picture lies on the disk, in a file that goes with the run."""
    run, port = staying
    alone = frame_store_bytes(1, Form(96, 64).nbytes)

    def held() -> float:
        return scraped(port)["framegate_frame_store_bytes"][("source", "short"),]

    wait_until("it keeps its last picture alone", lambda: held() == alone)
    assert list((run.folder / "state").glob("short.*")) == []
    shown = [os.readlink(path) for path in Path(f"/proc/{run.process.pid}/fd").iterdir()]
    assert not any(place.startswith("/dev/shm") for place in shown)
    address = f"http://127.0.0.1:{port}/snapshot/short.jpg?plain=1"
    with urllib.request.urlopen(address, timeout=DEADLINE_S) as answer:
        assert answer.headers["X-Framegate-Position"] == "1-19"
        jpeg = np.frombuffer(answer.read(), np.uint8)
    seen = cv2.imdecode(jpeg, cv2.IMREAD_GRAYSCALE).astype(float)
    luma = scene(19, (96, 64))[0].astype(float)
    assert np.abs(seen - luma).mean() < 12


def test_metrics_health_and_sources_agree_with_the_store(tmp_path: Path) -> None:
    port = free_port()
    address = f"127.0.0.1:{port}"
    run = Run(tmp_path / "data", f"bikes={bikes()}", "--pace", "realtime", "--http", address)
    try:
        _agree(run, port)
        assert run.wait() == Exit.DONE
    finally:
        run.kill()


def _agree(run: Run, port: int) -> None:
    assert web_process(run) is None, "nothing serves before somebody asks"
    wait_until("the run is ready", lambda: get(port, "/readyz")[0] == 200)
    assert web_process(run) is not None
    assert get(port, "/healthz") == (200, "alive\n")
    assert scraped(port)["framegate_run_info"] == {(("folder", str(run.folder)),): 1.0}
    bikes_only = (("source", "bikes"),)
    store = StoreAdmin(run.url)
    for _ in range(10):
        before = store.counters("bikes")
        found = scraped(port)
        after = store.counters("bikes")
        decoded, published, flight = (
            found[f"framegate_frames_{name}"][bikes_only]
            for name in ("decoded_total", "published_total", "in_flight")
        )
        dropped = sum(found["framegate_frames_dropped_total"].values())
        assert decoded == published + dropped + flight
        assert before.get("decoded", 0) <= decoded <= after.get("decoded", 0)
        assert before.get("published", 0) <= published <= after.get("published", 0)
    store.close()
    wait_until("latency is told", lambda: _count(scraped(port), "arrival_to_publish") > 0)
    wait_until("stages tell their times", lambda: _count(scraped(port), "stage_compute") > 0)
    found = scraped(port)
    assert found["framegate_source_up"] == {bikes_only: 1.0}
    assert {dict(labels)["worker"] for labels in found["framegate_worker_ready"]} == {"shard-1"}
    assert found["framegate_frame_store_bytes"][bikes_only] > 640 * 272
    (first,) = json.loads(get(port, "/api/v1/sources")[1])
    assert first["fps"] is None, "a first look knows no rate"
    wait_until("it has a rate", lambda: json.loads(get(port, "/api/v1/sources")[1])[0]["fps"])
    watched = framegate(run.folder.parent, "watch", "--json", "--once", "-d", str(run.folder))
    assert json.loads(watched.out)[0]["fps"] != 0.0, watched
    (listed,) = json.loads(get(port, "/api/v1/sources")[1])
    assert (listed["source"], listed["live"], listed["state"]) == ("bikes", False, "running")


def _count(found: Samples, what: str) -> float:
    name = f"framegate_{what}_seconds_bucket"
    return sum(n for labels, n in found.get(name, {}).items() if ("le", "+Inf") in labels)


def test_its_process_may_die(staying: tuple[Run, int]) -> None:
    run, port = staying
    assert get(port, "/healthz")[0] == 200
    first = web_process(run)
    assert first is not None
    os.kill(first, signal.SIGKILL)
    wait_until("it is gone", lambda: web_process(run) != first)
    assert get(port, "/healthz")[0] == 200
    assert web_process(run) not in (None, first)


def test_a_taken_port_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        run = Run(tmp_path / "data", str(bikes()), "--http", address)
        assert run.wait() == Exit.USAGE
    said = f"http.listen = '{address}' (--http): Address already in use; take a free port, or off"
    assert said in run.log.read_text(encoding="utf-8")


def test_a_run_keeps_its_port_or_says_who_has_it(tmp_path: Path) -> None:
    clip = write_scene(tmp_path / "short.mp4", steady(5))
    run = Run(tmp_path / "data", f"short={clip}")
    assert run.wait() == Exit.DONE
    known = run.folder / "run.json"
    told = json.loads(known.read_text(encoding="utf-8"))
    assert re.fullmatch(r"127\.0\.0\.1:\d+", told["http"])
    port = free_port()
    known.write_text(json.dumps(told | {"http": f"127.0.0.1:{port}"}), encoding="utf-8")
    again = Run(tmp_path / "data", "--resume")
    assert again.wait() == Exit.DONE
    assert f"live page at http://127.0.0.1:{port}\n" in again.log.read_text(encoding="utf-8")
    with socket.create_server(("127.0.0.1", port)):
        last = Run(tmp_path / "data", "--resume")
        assert last.wait() == Exit.DONE
    said = f"http: 127.0.0.1:{port} is taken by another program; this run listens at 127.0.0.1:"
    assert said in last.log.read_text(encoding="utf-8")
    assert json.loads(known.read_text(encoding="utf-8"))["http"] == f"127.0.0.1:{port}", (
        "it is tried again"
    )


def test_dashboards_and_rules_name_metrics_that_there_are(staying: tuple[Run, int]) -> None:
    _, port = staying
    known = set(re.findall(r"^# TYPE (\S+)", get(port, "/metrics")[1], re.MULTILINE))
    known |= set(scraped(port))
    known |= {name.removesuffix("_bucket") for name in known}
    for name in ("grafana-dashboard.json", "prometheus-rules.yml"):
        text = (DEPLOY / name).read_text(encoding="utf-8")
        named = set(re.findall(r"(?<![:\w])framegate_[a-z0-9_]+", text))  # source:...: is recorded
        assert named, name
        assert named <= known, named - known


@pytest.mark.parametrize(
    "words", ["watch --json -d DATA", "watch --once -d DATA", "sources -d DATA", "doctor --json"]
)
def test_who_has_seen_enough_may_close_the_pipe(staying: tuple[Run, int], words: str) -> None:
    """`framegate watch --json | head -1`: no traceback, no error."""
    said = words.replace("DATA", str(staying[0].folder)).split()
    command = [sys.executable, "-m", "framegate.cli", *said]
    with subprocess.Popen(command, stdout=-1, stderr=-1, env=environment()) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        if "watch --json" in words:
            assert process.stdout.readline().startswith(b"[{")
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(DEADLINE_S) == 1


def test_other_names_of_this_host_are_not_answered(staying: tuple[Run, int]) -> None:
    _, port = staying
    assert get(port, "/healthz", {"Host": f"localhost:{port}"})[0] == 200
    assert get(port, "/healthz", {"Host": f"rebound.example:{port}"})[0] == 400


def test_a_source_that_ended_and_a_camera_that_is_off_are_told_exactly(
    staying: tuple[Run, int],
) -> None:
    run, port = staying
    store, labels, gate = StoreAdmin(run.url), (("source", "short"),), (("source", "gate"),)
    counters, found = store.counters("short"), scraped(port)
    store.close()
    assert counters["published"] == 20
    for name in ("decoded", "published"):
        assert found[f"framegate_frames_{name}_total"][labels] == counters[name]
    looks = {key: n for key, n in found["framegate_looks_total"].items() if labels[0] in key}
    assert sum(looks.values()) == counters["published"]
    assert found["framegate_frames_in_flight"][labels] == 0
    latency = found["framegate_arrival_to_publish_seconds_bucket"]
    assert latency[(("le", "+Inf"), *labels)] == counters["published"]
    state = found["framegate_source_state"]
    assert state[(("framegate_source_state", "connecting"), *gate)] == 1
    up = found["framegate_source_up"]
    assert (up[labels], up[gate]) == (1, 0)


def test_no_path_tells_a_cameras_password(
    staying: tuple[Run, int], capsys: pytest.CaptureFixture[str]
) -> None:
    run, port = staying
    names = {told["source"] for told in json.loads(get(port, "/api/v1/sources")[1])}
    assert names == {"short", "gate", "yard", "s_127_0_0_1"}
    paths = [f"/snapshot/{name}.jpg" for name in names]
    told = ("/api/v1/sources", "/api/v1/results", "/api/v1/openapi.json")
    for path in ("/metrics", *told, "/readyz", "/healthz", "/", *paths):
        assert "tulip" not in get(port, path)[1], path
    for words in (("sources",), ("sources", "--json"), ("watch", "--once"), ("snapshot", "yard")):
        main([*words, "-d", str(run.folder)])
        assert "tulip" not in "".join(capsys.readouterr()), words
    with redis.Redis.from_url(run.url) as client:
        for key in client.scan_iter():
            assert b"tulip" not in key, key
