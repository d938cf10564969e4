"""Results reach a broker with a password at least once; one that is away holds nothing up."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from framegate.pipeline.errors import ConfigFaults
from tests.examples.brokers import ABSENT, PASSWORD, USER, Broker, free_port
from tests.examples.delivering import EXAMPLES, given, opened
from tests.support import footage
from tests.support.commands import Reader, framegate, user_folder
from tests.support.runs import Run, wait_until
from tests.support.servers import server

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.skipif(ABSENT, reason="needs Debian's mosquitto"),
]
USE = "mqtt_bridge:MqttBridge"


@pytest.fixture
def broker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Broker]:
    monkeypatch.setenv("MQTT_PASSWORD", PASSWORD)
    made = Broker(tmp_path / "broker")
    made.start()
    yield made
    made.stop()


def options(port: int) -> dict[str, object]:
    return {"host": "127.0.0.1", "port": port, "username": USER, "password_env": "MQTT_PASSWORD"}


def test_each_result_is_there_once_its_batch_is_answered(broker: Broker, tmp_path: Path) -> None:
    broker.subscribe()
    with opened(USE, tmp_path, **options(broker.port)) as stage:
        assert given(stage, range(20)) == 0
        assert [found["seq"] for found in broker.results(20)] == list(range(20))
        assert broker.online() == b"1"
    assert broker.online() == b"0"


def test_counts(broker: Broker, tmp_path: Path) -> None:
    broker.subscribe()
    with opened(USE, tmp_path, content="counts", **options(broker.port)) as stage:
        given(stage, [7])
    assert broker.results(1) == [{"source": "gate", "epoch": 1, "seq": 7, "counts": {}}]


def test_a_broker_that_goes_and_comes_back_gets_all_that_is_kept(
    broker: Broker, tmp_path: Path
) -> None:
    broker.subscribe()
    with opened(USE, tmp_path, keep=10, **options(broker.port)) as stage:
        given(stage, range(5))
        broker.stop()
        dropped = sum(given(stage, [seq]) for seq in range(5, 35))
        assert dropped == 20
        broker.start()
        found = [result["seq"] for result in broker.results(15)]
    assert found == [*range(5), *range(25, 35)]


def test_a_wrong_password_is_like_a_broker_that_is_away_and_is_not_said(
    broker: Broker,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("MQTT_PASSWORD", "Hunter3-wrong")
    with opened(USE, tmp_path, keep=1, **options(broker.port)) as stage:
        assert given(stage, range(3)) == 2
    assert "the receiver is away" in caplog.text
    assert "Hunter" not in caplog.text
    monkeypatch.delenv("MQTT_PASSWORD")
    with (
        pytest.raises(ConfigFaults, match="MQTT_PASSWORD"),
        opened(USE, tmp_path, **options(broker.port)),
    ):
        pass


def bridged(tmp_path: Path, port: int) -> Path:
    """A user's folder with the bridge beside pipeline.toml."""
    said = "\n".join(f"{name} = {json.dumps(value)}" for name, value in options(port).items())
    more = f'[stages.mqtt]\nuse = "{USE}"\ninput = "cache"\non_lag = "drop"\n{said}\n'
    folder = user_folder(tmp_path / "user", more=more)
    for file in ("outbox.py", "mqtt_bridge.py"):
        shutil.copy(EXAMPLES / file, folder)
    footage.write_scene(folder / "gate.mp4", footage.steady(50))
    return folder


def test_a_run_says_all_its_results(broker: Broker, tmp_path: Path) -> None:
    folder = bridged(tmp_path, broker.port)
    broker.subscribe()
    with server(folder / "server") as store:
        ended = framegate(folder, "run", "gate.mp4", "-d", "data", "--store", store.url)
        assert ended.code == 0, ended.err
        reader = Reader(store.url)
        results = reader.whole("gate", 50)
        reader.close()
    assert broker.results(50) == results
    assert PASSWORD not in ended.err


def test_a_killed_worker_loses_no_result_while_the_broker_is_there(
    broker: Broker, tmp_path: Path
) -> None:
    folder = bridged(tmp_path, broker.port)
    broker.subscribe()
    run = Run(folder / "data", "gate.mp4", "--pace", "realtime", cwd=folder)
    try:
        wait_until("some are told", lambda: run.positions("gate", ["mqtt"])["mqtt"].seq > 3)
        os.kill(wait_until("the bridge runs", lambda: run.worker("mqtt")), signal.SIGKILL)
        assert run.wait() == 0
    finally:
        run.kill()
    assert sorted({result["seq"] for result in broker.results(50)}) == list(range(50))


def test_a_run_whose_broker_is_not_there_ends_as_if_there_were_no_bridge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MQTT_PASSWORD", PASSWORD)
    folder = bridged(tmp_path, free_port())
    ended = framegate(folder, "run", "gate.mp4", "-d", "data", "--json")
    assert ended.code == 0, ended.err
    assert len(ended.results("gate")) == 50
    assert "the receiver is away" in ended.err
    assert "killed" not in ended.err
