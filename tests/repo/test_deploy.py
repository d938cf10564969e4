"""What `deploy` carries is sound: linted, and of words that the command line knows."""

from __future__ import annotations

import fnmatch
import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from framegate.cli.main import parser
from framegate.pipeline.config.config import read_config
from framegate.pipeline.config.sources import is_camera
from framegate.pipeline.system.ports import HTTP_DEFAULT
from framegate.pipeline.telemetry.source_view import State

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
UNIT = (DEPLOY / "framegate.service").read_text(encoding="utf-8")
SLOT = (DEPLOY / "framegate-slot@.service").read_text(encoding="utf-8")
FLEET = {
    name: (DEPLOY / f"framegate-fleet-{name}.service").read_text(encoding="utf-8")
    for name in ("head", "host")
}
DOCKERFILE = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
BESIDE = yaml.safe_load((DEPLOY / "compose.go2rtc.yaml").read_text(encoding="utf-8"))
SERVICES = {**COMPOSE["services"], "go2rtc": BESIDE["services"]["go2rtc"]}
MLSERVER = DEPLOY / "mlserver"
BIN = Path(sys.executable).parent
IMPORTED = {"prometheus-client": "prometheus_client"}  # where a package is imported by another name


def unit(key: str, text: str = UNIT) -> str:
    """The only value of a key of a unit."""
    (found,) = re.findall(rf"^{key}=(.*)$", text, re.MULTILINE)
    return str(found)


def packages(lines: list[str]) -> set[str]:
    """Names in lines of requirements."""
    return {re.split(r"[=<>~!]", line)[0] for line in lines if line and not line.startswith("#")}


def in_image() -> list[str]:
    """The command of the image."""
    return list(json.loads(re.findall(r"^CMD (\[.*\])$", DOCKERFILE, re.MULTILINE)[0]))


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("framegate.service", UNIT),
        ("framegate-slot@box1.service", SLOT),
        *((f"framegate-fleet-{name}.service", text) for name, text in FLEET.items()),
    ],
)
def test_the_unit_is_one_that_systemd_takes(name: str, text: str, tmp_path: Path) -> None:
    file = tmp_path / name
    file.write_text(
        text.replace("/opt/framegate/.venv/bin/framegate", str(BIN / "framegate")), encoding="utf-8"
    )
    command = ["systemd-analyze", "verify", "--man=no", file]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, encoding="utf-8")
    assert (ended.returncode, ended.stderr) == (0, "")


def keys_of(text: str, *others: str) -> list[str]:
    """The keys and values of a unit in their order, but for those of some keys."""
    lines = [line for line in text.splitlines() if re.match(r"\w+=", line)]
    return [line for line in lines if line.partition("=")[0] not in others]


def test_a_slot_is_a_unit_like_that_of_a_run_but_for_what_it_serves() -> None:
    others = ("Description", "EnvironmentFile", "Environment", "ExecStart", "StateDirectory",
              "CacheDirectory", "RuntimeDirectory")  # fmt: skip
    assert keys_of(SLOT, *others) == keys_of(UNIT, *others)


def test_the_command_line_of_a_slot_is_understood_and_shows_no_secret() -> None:
    words = shlex.split(unit("ExecStart", SLOT).replace("%i", "box1"))
    assert words[-1] == "$SLOT_OPTIONS", "systemd leaves it out if it is not set"
    for options in ([], shlex.split("--fleet-secret env:FLEET_SECRET")):
        parsed = parser().parse_args([*words[1:-1], *options])
        assert (parsed.slot, parsed.store) == ("box1", "env:FRAMEGATE_STORE")
        assert parsed.data == Path("/var/lib", unit("StateDirectory", SLOT).replace("%i", "box1"))


@pytest.mark.parametrize("name", FLEET)
def test_the_units_of_a_fleet_on_ray_have_the_rights_of_a_slot_and_show_no_secret(
    name: str,
) -> None:
    others = ("Description", "EnvironmentFile", "LoadCredential", "Environment", "ExecStart",
              "WorkingDirectory", "SupplementaryGroups", "StateDirectory", "CacheDirectory",
              "RuntimeDirectory")  # fmt: skip
    assert keys_of(FLEET[name], *others) == keys_of(SLOT, *others)
    words = shlex.split(unit("ExecStart", FLEET[name]))
    action = {"head": "head", "host": "join"}[name]
    assert words[-1] == f"${action.upper()}_OPTIONS", "systemd leaves it out if it is not set"
    words[words.index("${FLEET_HEAD}")] = "10.0.0.5:6380"
    parsed = parser().parse_args(words[1:-1])
    assert (parsed.action, parsed.store) == (action, "env:FRAMEGATE_STORE")
    if name == "host":
        run = parser().parse_args(["run", "--slot", "a", *shlex.split(parsed.options)])
        assert run.config == Path("/etc/framegate/pipeline.toml")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_the_timer_and_what_it_starts_are_ones_that_systemd_takes(tmp_path: Path) -> None:
    for name in ("framegate.service", "framegate-learn@.service", "framegate-learn@.timer"):
        text = (DEPLOY / name).read_text(encoding="utf-8")
        (tmp_path / name).write_text(
            text.replace("/opt/framegate/.venv/bin/framegate", str(BIN / "framegate")),
            encoding="utf-8",
        )
    command = ["systemd-analyze", "verify", "--man=no", tmp_path / "framegate-learn@gate.timer"]
    (tmp_path / "framegate-learn@gate.timer").symlink_to("framegate-learn@.timer")
    ended = subprocess.run(command, capture_output=True, text=True, check=False, encoding="utf-8")
    assert (ended.returncode, ended.stderr) == (0, "")


def test_what_the_timer_starts_is_a_command_of_framegate() -> None:
    text = (DEPLOY / "framegate-learn@.service").read_text(encoding="utf-8")
    (line,) = re.findall(r"^ExecStart=\S+ (.*)$", text, re.MULTILINE)
    parsed = parser().parse_args(shlex.split(line.replace("%i", "gate")))
    assert parsed.if_needed
    assert parsed.use
    assert parsed.sources == ["/var/lib/framegate:gate"]


def test_the_run_its_commands_and_its_timer_use_the_same_folders() -> None:
    manual = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")
    learn = (DEPLOY / "framegate-learn@.service").read_text(encoding="utf-8")
    folders = re.compile(r"\bXDG_\w+=\S+")
    wanted = set(folders.findall(UNIT))
    assert len(wanted) == 3
    assert wanted == set(folders.findall(learn)) == set(folders.findall(manual))


def test_a_stopped_unit_drains_and_one_that_ends_is_started_again() -> None:
    assert (unit("Restart"), unit("KillMode")) == ("always", "mixed")
    assert unit("RestartPreventExitStatus") == "2 75", "nor does it take back what others have"
    assert int(unit("TimeoutStopSec")) >= 30, "more than the supervisor's own patience"
    assert "--resume" in unit("ExecStart")


def test_the_dockerfile_is_clean() -> None:
    command = [BIN / "hadolint", DEPLOY / "Dockerfile"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, encoding="utf-8")
    assert (ended.returncode, ended.stdout) == (0, "")


def copied() -> list[str]:
    """What the image takes from the checkout."""
    lines = [line.split()[1:-1] for line in DOCKERFILE.splitlines() if line.startswith("COPY")]
    return [name for names in lines if not names[0].startswith("--from") for name in names]


def is_sent(path: Path) -> bool:
    """Whether .dockerignore leaves a path in what Docker gets: the last line that fits decides."""
    name, sent = path.relative_to(ROOT).as_posix(), True
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").split():
        pattern = line.lstrip("!").removeprefix("**/")
        parents = [name, *(each.as_posix() for each in Path(name).parents)]
        names = [*parents, *Path(name).parts] if "**/" in line else parents
        if any(fnmatch.fnmatchcase(each, pattern) for each in names):
            sent = line.startswith("!")
    return sent


def test_what_the_dockerfile_copies_is_there_and_is_sent_to_docker() -> None:
    assert "pipeline" in copied()
    assert [name for name in copied() if not (ROOT / name).exists()] == []
    files = [path for name in copied() for path in [ROOT / name, *(ROOT / name).rglob("*")]]
    kept = {"__pycache__"}
    absent = [path for path in files if not is_sent(path)]
    assert [path for path in absent if not kept & {path.suffix, *path.parts}] == []
    assert not is_sent(ROOT / "tests"), "nor is more sent than is copied"


def test_one_port_everywhere() -> None:
    port = HTTP_DEFAULT.rpartition(":")[2]
    exposed, asked = re.findall(r"^EXPOSE (\d+)$|http://127\.0\.0\.1:(\d+)/", DOCKERFILE, re.M)
    assert ("".join(exposed), "".join(asked)) == (port, port)
    assert in_image()[-1] == f"0.0.0.0:{port}"
    assert COMPOSE["services"]["framegate"]["ports"] == [f"127.0.0.1:{port}:{port}"]
    assert scrape()["static_configs"] == [{"targets": [f"framegate:{port}"]}]
    assert f"127.0.0.1:{port}" in unit("ExecStart")
    assert f'["127.0.0.1:{port}"]' in (DEPLOY / "prometheus-rules.yml").read_text(encoding="utf-8")


def mounts(service: str) -> dict[str, str]:
    """What a service mounts: path in it -> file of `deploy`, or named volume."""
    pairs = [volume.split(":")[:2] for volume in SERVICES[service]["volumes"]]
    return {inside: outside for outside, inside in pairs}


def test_the_compose_file_says_what_a_run_needs() -> None:
    service = COMPOSE["services"]["framegate"]
    assert (ROOT / service["build"]["dockerfile"]).exists()
    assert re.fullmatch(r"\d+mb", service["shm_size"])
    assert mounts("framegate")["/etc/framegate"] == "./config"
    assert service["environment"]["FRAMEGATE_HTTP_TOKEN"] == "off"  # only on the loopback
    assert [port.rpartition(":")[0] for port in service["ports"]] == ["127.0.0.1:8686"]
    assert re.findall(r"^(?:WORKDIR|VOLUME) (/(?:etc|var).*)$", DOCKERFILE, re.M) == [
        "/etc/framegate", "/var/lib/framegate",
    ]  # fmt: skip


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_starts_again_is_for_this_host_only_and_mounts_what_is_there(name: str) -> None:
    service = SERVICES[name]
    assert service["restart"] == "unless-stopped"
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    outside = mounts(name).values()
    assert [path for path in outside if "/" in path and not (DEPLOY / path).exists()] == []
    assert {path for path in outside if "/" not in path} <= set(COMPOSE["volumes"])
    assert "image" not in service or re.search(r":v?\d+\.\d+\.\d+$", service["image"])


@pytest.mark.skipif(shutil.which("docker-compose") is None, reason="needs docker-compose")
def test_compose_takes_the_compose_file() -> None:
    command = ["docker-compose", "-f", DEPLOY / "compose.yaml", "config", "--quiet"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, encoding="utf-8")
    assert (ended.returncode, ended.stderr) == (0, "")


def scrape() -> dict[str, Any]:
    """The only job of prometheus.yml."""
    (job,) = yaml.safe_load((DEPLOY / "prometheus.yml").read_text(encoding="utf-8"))[
        "scrape_configs"
    ]
    return dict(job)


def test_prometheus_asks_under_the_name_that_the_rules_have_and_finds_them(tmp_path: Path) -> None:
    said = yaml.safe_load((DEPLOY / "prometheus.yml").read_text(encoding="utf-8"))
    assert f'up{{job="{scrape()["job_name"]}"}}' in (DEPLOY / "prometheus-rules.yml").read_text(
        encoding="utf-8"
    )
    there = mounts("prometheus")
    assert [f"/etc/prometheus/{name}" in there for name in said["rule_files"]] == [True]
    for inside, outside in there.items():
        if inside.startswith("/etc/prometheus/"):
            shutil.copy(DEPLOY / outside, tmp_path)
    if promtool := shutil.which("promtool"):
        subprocess.run([promtool, "check", "config", tmp_path / "prometheus.yml"], check=True)


def test_a_recorded_file_that_is_done_raises_no_alert() -> None:
    """framegate_source_up is 1 for it, too, so the alert asks for the state."""
    (group,) = yaml.safe_load((DEPLOY / "prometheus-rules.yml").read_text(encoding="utf-8"))[
        "groups"
    ]
    asked = {rule["alert"]: rule["expr"] for rule in group["rules"] if "alert" in rule}
    state = 'framegate_source_state{framegate_source_state="running"} == 1'
    assert asked["FramegateNotRecording"].endswith(f"on (instance, source) {state}")
    assert "running" in get_args(State)


def test_grafana_finds_prometheus_and_the_dashboard_and_opens_it() -> None:
    there = mounts("grafana")
    provisioned = "/etc/grafana/provisioning"
    (source,) = yaml.safe_load(
        (DEPLOY / there[f"{provisioned}/datasources/framegate.yml"]).read_text(encoding="utf-8")
    )["datasources"]
    assert source["url"] == "http://prometheus:9090"
    assert "prometheus" in COMPOSE["services"]
    dashboard = json.loads((DEPLOY / "grafana-dashboard.json").read_text(encoding="utf-8"))
    (chosen,) = [one for one in dashboard["templating"]["list"] if one["type"] == "datasource"]
    assert (source["isDefault"], source["type"]) == (True, chosen["query"])
    (provider,) = yaml.safe_load(
        (DEPLOY / there[f"{provisioned}/dashboards/framegate.yml"]).read_text(encoding="utf-8")
    )["providers"]
    home = COMPOSE["services"]["grafana"]["environment"][
        "GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"
    ]
    assert there[home] == "./grafana-dashboard.json"
    assert Path(home).parent == Path(provider["options"]["path"])


def test_every_line_that_the_configuration_offers_is_one_that_is_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    offered = (DEPLOY / "config" / "pipeline.toml").read_text(encoding="utf-8")
    lines = re.sub(r"^# (?=\[|\w+ = )", "", offered, flags=re.M)
    monkeypatch.setenv("YARD_URL", "rtsp://camera.example/yard")
    monkeypatch.setenv("HOME_URL", "mqtt://user:open-sesame@broker.example")
    config = read_config("pipeline.toml", lines)
    assert set(config.sources) == {"entrance", "yard"}
    assert all(is_camera(name, one) for name, one in config.sources.items()), "files are refused"
    assert (set(config.sinks), set(config.events.rules)) == ({"home"}, {"somebody"})
    assert read_config("pipeline.toml", offered).sources == {}, "as it is, it waits"


def test_the_model_of_mlserver_imports_what_is_there_with_the_packages_that_it_asks_for() -> None:
    runtime = (MLSERVER / "framegate_heavy" / "heavy_runtime.py").read_text(encoding="utf-8")
    ours = re.findall(r"^from framegate.*$", runtime, re.MULTILINE)
    assert len(ours) == 2
    there = packages((MLSERVER / "requirements.txt").read_text(encoding="utf-8").splitlines())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = packages(project["dependencies"])
    absent = sorted(IMPORTED.get(name, name) for name in needed - there)
    assert "starlette" in absent
    code = f"import sys; sys.modules.update(dict.fromkeys({absent!r}))\n" + "\n".join(ours)
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.parametrize("words", [shlex.split(unit("ExecStart"))[1:], in_image()], ids=str)
def test_the_command_line_knows_these_words(words: list[str]) -> None:
    command = [sys.executable, "-m", "framegate.cli", *words[:1], "--help"]
    text = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=True, encoding="utf-8"
    ).stdout
    assert [word for word in words if word.startswith("-") and word not in text] == []
