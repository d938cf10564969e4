"""The add-on of Home Assistant keeps the rules of the Supervisor, and starts with its options.

The rules are those of Home Assistant's documents on the configuration of add-ons.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import threading
import tomllib
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import cv2
import pytest
import yaml

from framegate.pipeline.config.config import read_config
from tests.support.own_servers import free_port
from tests.support.runs import DEADLINE_S, wait_until

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "homeassistant"
CONFIG = yaml.safe_load((FOLDER / "config.yaml").read_text(encoding="utf-8"))
TEMPLATE = (FOLDER / "framegate.toml").read_text(encoding="utf-8")
KNOWN = {
    "name": str, "version": str, "slug": str, "description": str, "arch": list, "url": str,
    "startup": str, "boot": str, "init": bool, "timeout": int, "ingress": bool,
    "ingress_port": int, "panel_icon": str, "panel_title": str, "panel_admin": bool,
    "watchdog": str, "services": list, "map": list, "video": bool, "backup": str,
    "backup_exclude": list, "options": dict, "schema": dict,
}  # fmt: skip
TOKEN = "a-token-of-the-supervisor"
BROKER = {
    "addon": "core_mosquitto", "host": "core-mosquitto", "port": 1883, "ssl": False,
    "username": "addons", "password": "p:ss/w@rd", "protocol": "3.1.1",
}  # fmt: skip


def loaded() -> ModuleType:
    """The script of the add-on as a module."""
    spec = importlib.util.spec_from_file_location("add_on_run", FOLDER / "run.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


ADD_ON = loaded()


def test_the_supervisor_takes_the_configuration() -> None:
    assert {"name", "version", "slug", "description", "arch"} <= CONFIG.keys() <= KNOWN.keys()
    assert [key for key, value in CONFIG.items() if type(value) is not KNOWN[key]] == []
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert CONFIG["version"] == project["version"]
    assert re.fullmatch(r"[-_.A-Za-z0-9]+", CONFIG["slug"])
    assert set(CONFIG["arch"]) <= {"aarch64", "amd64"}
    assert CONFIG["startup"] in {"initialize", "system", "services", "application", "once"}
    assert CONFIG["boot"] in {"auto", "manual", "manual_only"}
    assert 10 <= CONFIG["timeout"] <= 300
    assert CONFIG["backup"] in {"hot", "cold"}
    for service in CONFIG["services"]:
        assert re.fullmatch(r"(mqtt|mysql):(provide|want|need)", service)
    for folder in CONFIG["map"]:
        assert folder["type"] in {"addon_config", "homeassistant_config", "share", "media", "ssl"}
        assert folder.keys() <= {"type", "read_only", "path"}
    assert re.fullmatch(r"(?:https?|tcp)://\[HOST\]:(\[PORT:\d+\]|\d+).*", CONFIG["watchdog"])


def test_each_option_has_a_rule_and_a_text_in_each_language() -> None:
    assert CONFIG["options"].keys() == CONFIG["schema"].keys()
    ((camera,),) = CONFIG["schema"].values()
    name, url = (re.fullmatch(r"match\((.*)\)", camera[key])[1] for key in ("name", "url"))
    assert re.match(name, "front_door2")
    assert [
        bad for bad in ("", "Door", "2door", "front door", "x" * 33) if re.match(name, bad)
    ] == []
    assert re.match(url, "rtsp://user:password@192.168.1.20:554/stream2")
    assert re.match(url, "/etc/passwd") is None, "no file of the add-on"
    for language in (FOLDER / "translations").glob("*.yaml"):
        texts = yaml.safe_load(language.read_text(encoding="utf-8"))["configuration"]
        assert texts.keys() == CONFIG["schema"].keys()
        assert all(set(text) == {"name", "description"} for text in texts.values())


def test_it_is_built_from_images_with_glibc_for_each_architecture() -> None:
    build = yaml.safe_load((FOLDER / "build.yaml").read_text(encoding="utf-8"))
    assert set(build["build_from"]) == set(CONFIG["arch"])
    pattern = r"([a-zA-Z\-.:\d]+/)*?[\-\w]+/[\-\w]+:[.\-\w]+"
    assert all(re.fullmatch(pattern, image) for image in build["build_from"].values())
    main = (ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8")
    base = re.findall(r"^ARG BASE=(.*)$", main, re.MULTILINE)
    assert {image.rpartition("/")[2] for image in build["build_from"].values()} == set(base)
    linter = Path(sys.executable).with_name("hadolint")
    ended = subprocess.run([linter, FOLDER / "Dockerfile"], capture_output=True, check=False)
    assert (ended.returncode, ended.stdout) == (0, b"")


def test_the_icon_has_the_size_that_is_asked_for() -> None:
    assert cv2.imread(str(FOLDER / "icon.png"), cv2.IMREAD_UNCHANGED).shape == (128, 128, 4)


def test_one_port_for_the_panel_the_watchdog_and_the_run() -> None:
    port = CONFIG["ingress_port"]
    assert f"[PORT:{port}]" in CONFIG["watchdog"]
    assert tomllib.loads(TEMPLATE)["http"]["listen"] == f"0.0.0.0:{port}"


class StandIn(BaseHTTPRequestHandler):
    """The API of the Supervisor, of which an add-on asks for the MQTT service."""

    broker: ClassVar[dict[str, Any] | None] = None

    def do_GET(self) -> None:
        if self.headers["Authorization"] != f"Bearer {TOKEN}":
            self._answer(401, {"result": "error", "message": "unauthorized"})
        elif self.path != "/services/mqtt":
            self._answer(404, {"result": "error", "message": "not found"})
        elif self.broker is None:
            self._answer(400, {"result": "error", "message": "Service not enabled"})
        else:
            self._answer(200, {"result": "ok", "data": self.broker})

    def _answer(self, status: int, body: dict[str, Any]) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def supervisor() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), StandIn)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    StandIn.broker = None
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """The folders /config and /data of an add-on with two cameras."""
    config, data = tmp_path / "config", tmp_path / "data"
    config.mkdir()
    data.mkdir()
    cameras = [
        {"name": "door", "url": "rtsp://user:open-sesame@camera.example/stream2"},
        {"name": "yard", "url": "rtsp://camera.example/yard"},
    ]
    (data / "options.json").write_text(json.dumps({"cameras": cameras}), encoding="utf-8")
    return config, data


def test_the_first_start_writes_cameras_and_broker_without_their_passwords(
    supervisor: str, folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    StandIn.broker = BROKER
    command, variables = ADD_ON.prepare(*folders, supervisor, TOKEN)
    text = (folders[0] / "pipeline.toml").read_text(encoding="utf-8")
    assert text.startswith(TEMPLATE.splitlines()[0])
    assert "open-sesame" not in text
    assert variables["HOME_URL"] == "mqtt://addons:p%3Ass%2Fw%40rd@core-mosquitto:1883"
    assert not any("open-sesame" in word or "p%3A" in word for word in command)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    own = text.replace("/data/accounts.toml", str(folders[1] / "accounts.toml"))
    config = read_config("pipeline.toml", own)
    assert set(config.sources) == {"door", "yard"}
    assert (set(config.sinks), set(config.events.rules)) == ({"home"}, {"person"})


def test_a_later_start_adds_what_is_missing_and_changes_nothing_else(
    supervisor: str, folders: tuple[Path, Path]
) -> None:
    ADD_ON.prepare(*folders, supervisor, TOKEN)
    file = folders[0] / "pipeline.toml"
    first = file.read_text(encoding="utf-8")
    assert "sinks" not in tomllib.loads(first), "the Supervisor has no broker"
    mine = first.replace("[sources.yard]", "# The yard, seen from the roof.\n[sources.yard]")
    file.write_text(mine, encoding="utf-8")
    ADD_ON.prepare(*folders, supervisor, TOKEN)
    assert file.read_text(encoding="utf-8") == mine
    StandIn.broker = {**BROKER, "ssl": True, "username": "", "port": 8883}
    _, variables = ADD_ON.prepare(*folders, supervisor, TOKEN)
    assert file.read_text(encoding="utf-8").startswith(mine)
    assert tomllib.loads(file.read_text(encoding="utf-8"))["sinks"].keys() == {"home"}
    assert variables["HOME_URL"] == "mqtts://core-mosquitto:8883"


def test_a_broker_that_is_removed_later_stops_no_camera(
    supervisor: str,
    folders: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    StandIn.broker = BROKER
    ADD_ON.prepare(*folders, supervisor, TOKEN)
    StandIn.broker = None
    _, variables = ADD_ON.prepare(*folders, supervisor, TOKEN)
    assert "messages wait for a broker at mqtt://core-mosquitto:1883" in capsys.readouterr().err
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    text = (folders[0] / "pipeline.toml").read_text(encoding="utf-8")
    own = text.replace("/data/accounts.toml", str(folders[1] / "accounts.toml"))
    assert set(read_config("pipeline.toml", own).sinks) == {"home"}


def test_a_file_to_which_no_table_can_be_added_stays_as_it_is(
    supervisor: str, folders: tuple[Path, Path]
) -> None:
    file = folders[0] / "pipeline.toml"
    mine = 'sources = {door = {url_env = "CAMERA_DOOR_URL"}}\n'
    file.write_text(mine, encoding="utf-8")
    with pytest.raises(ADD_ON.CannotStart, match=r"inline table(.|\n)*\[sources\.yard\]"):
        ADD_ON.prepare(*folders, supervisor, TOKEN)
    assert file.read_text(encoding="utf-8") == mine


@pytest.mark.parametrize("fault", ["same name", "no TOML", "no Supervisor"])
def test_a_mistake_is_named(fault: str, supervisor: str, folders: tuple[Path, Path]) -> None:
    words = {"same name": "same name", "no TOML": "pipeline.toml is not", "no Supervisor": "answer"}
    if fault == "same name":
        twice = {"cameras": [{"name": "door", "url": "rtsp://a/b"}] * 2}
        (folders[1] / "options.json").write_text(json.dumps(twice), encoding="utf-8")
    elif fault == "no TOML":
        (folders[0] / "pipeline.toml").write_text("sources = [", encoding="utf-8")
    else:
        supervisor = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(ADD_ON.CannotStart, match=words[fault]):
        ADD_ON.prepare(*folders, supervisor, TOKEN)


def test_the_page_is_open_to_the_supervisor_alone(
    supervisor: str, folders: tuple[Path, Path]
) -> None:
    (folders[1] / "options.json").write_text('{"cameras": []}', encoding="utf-8")
    command, variables = ADD_ON.prepare(*folders, supervisor, TOKEN)
    port = free_port()
    file = folders[0] / "pipeline.toml"
    text = file.read_text(encoding="utf-8")
    # This host in place of the Supervisor's.
    text = text.replace("172.30.32.2", "127.0.0.1").replace("0.0.0.0:8099", f"127.0.0.1:{port}")
    text = text.replace("/data/accounts.toml", str(folders[1] / "accounts.toml"))
    file.write_text(text, encoding="utf-8")
    kept = {k: v for k, v in os.environ.items() if not k.startswith("FRAMEGATE")}
    env = {**kept, **variables, "XDG_STATE_HOME": str(folders[1] / "state")}
    words = [sys.executable, "-m", *command]
    run = subprocess.Popen(words, cwd=folders[0], env=env, stderr=subprocess.DEVNULL)

    def status(path: str, **headers: str) -> int:
        asked = {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers=asked)
        try:
            with urllib.request.urlopen(request, timeout=DEADLINE_S) as response:
                return int(response.status)
        except urllib.error.HTTPError as error:
            return int(error.code)
        except OSError:
            return 0

    try:
        wait_until("is healthy", lambda: status("/healthz") == 200 or run.poll() is not None)
        by_ingress = {"X_Remote_User_Id": "5f2", "X_Hass_Source": "core.ingress"}
        assert status("/", **by_ingress) == 200
        assert status("/api/v1/config", **by_ingress) == 200, "and may change rules"
        assert status("/api/v1/config") == 401
        assert status("/api/v1/config", X_Remote_User_Id="5f2", X_Hass_Source="other") == 403
        run.terminate()
        assert run.wait(DEADLINE_S) == 0
    finally:
        run.kill()
        run.wait()
