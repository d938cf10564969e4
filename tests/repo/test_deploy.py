"""What `deploy` carries is sound: linted, and of words that the command line knows."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
UNIT = (DEPLOY / "framegate.service").read_text()
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
MLSERVER = DEPLOY / "mlserver"
BIN = Path(sys.executable).parent
IMPORTED = {"prometheus-client": "prometheus_client"}  # where a package is imported by another name


def unit(key: str) -> str:
    """The only value of a key of the unit."""
    (found,) = re.findall(rf"^{key}=(.*)$", UNIT, re.MULTILINE)
    return str(found)


def packages(lines: list[str]) -> set[str]:
    """Names in lines of requirements."""
    return {re.split(r"[=<>~!]", line)[0] for line in lines if line and not line.startswith("#")}


def in_image() -> list[str]:
    """The command of the image."""
    return list(json.loads(re.findall(r"^CMD (\[.*\])$", DOCKERFILE, re.MULTILINE)[0]))


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_the_unit_is_one_that_systemd_takes(tmp_path: Path) -> None:
    file = tmp_path / "framegate.service"
    file.write_text(UNIT.replace("/opt/framegate/.venv/bin/framegate", str(BIN / "framegate")))
    command = ["systemd-analyze", "verify", "--man=no", file]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_a_stopped_unit_drains_and_one_that_ends_is_started_again() -> None:
    assert (unit("Restart"), unit("KillMode")) == ("always", "mixed")
    assert unit("RestartPreventExitStatus") == "2 75", "nor does it take back what others have"
    assert int(unit("TimeoutStopSec")) >= 30, "more than the supervisor's own patience"
    assert "--resume" in unit("ExecStart")


def test_the_dockerfile_is_clean() -> None:
    command = [BIN / "hadolint", DEPLOY / "Dockerfile"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (0, "")


def test_what_the_dockerfile_copies_is_there() -> None:
    copied = [line.split()[1:-1] for line in DOCKERFILE.splitlines() if line.startswith("COPY")]
    assert [name for names in copied for name in names if not (ROOT / name).exists()] == []


def test_the_compose_file_says_what_a_run_needs() -> None:
    (service,) = COMPOSE["services"].values()
    assert (ROOT / service["build"]["dockerfile"]).exists()
    assert re.fullmatch(r"\d+mb", service["shm_size"])
    assert service["restart"] == "unless-stopped"
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    named = [volume.partition(":")[0] for volume in service["volumes"]]
    assert {name for name in named if "/" not in name} == set(COMPOSE["volumes"])


def test_the_model_of_mlserver_imports_what_is_there_with_the_packages_that_it_asks_for() -> None:
    runtime = (MLSERVER / "framegate_heavy" / "heavy_runtime.py").read_text()
    ours = re.findall(r"^from framegate.*$", runtime, re.MULTILINE)
    assert len(ours) == 2
    there = packages((MLSERVER / "requirements.txt").read_text().splitlines())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = packages(project["dependencies"])
    absent = sorted(IMPORTED.get(name, name) for name in needed - there)
    assert "starlette" in absent
    code = f"import sys; sys.modules.update(dict.fromkeys({absent!r}))\n" + "\n".join(ours)
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.parametrize("words", [shlex.split(unit("ExecStart"))[1:], in_image()], ids=str)
def test_the_command_line_knows_these_words(words: list[str]) -> None:
    command = [sys.executable, "-m", "framegate.pipeline.cli", *words[:1], "--help"]
    text = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert [word for word in words if word.startswith("-") and word not in text] == []
