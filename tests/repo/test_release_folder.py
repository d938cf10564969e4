"""The folder of a release installs the locked versions, by pipx and with digests."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
PYTHONS = ("python3.11", "python3.13", "/usr/bin/python3")


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that `make package` makes, without the source distribution."""
    folder = tmp_path_factory.mktemp("release")
    words = ["wheel", "--no-deps", "--no-index", "--quiet", "--no-build-isolation", "-w", folder]
    source = folder.with_name("checkout")
    names = ("framegate", "pipeline", "stages", "models", "pyproject.toml", "pipeline.toml")
    source.mkdir()
    for name in (*names, "LICENSE"):
        if (ROOT / name).is_dir():
            ours = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=ours)
        else:
            shutil.copy(ROOT / name, source / name)
    subprocess.run([*PIP, *words, source], check=True)
    subprocess.run([sys.executable, ROOT / "deploy" / "release.py", folder], check=True)
    return folder


def pinned(text: str) -> dict[str, set[str]]:
    """Versions by package, of a lock or of constraints."""
    found: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([a-z0-9._-]+)==([^ ;\\\n]+)", text, re.MULTILINE):
        found.setdefault(name, set()).add(version)
    return found


@pytest.mark.whole_run
def test_the_constraints_are_the_locked_versions_without_digests(release: Path) -> None:
    text = (release / "constraints.txt").read_text(encoding="utf-8")
    lock = (ROOT / "locks" / "dev.txt").read_text(encoding="utf-8")
    assert pinned(text) == pinned(lock)
    assert len(pinned(text)) > 50
    assert "--hash" not in text
    assert "scipy==" in text
    assert "; python_full_version" in text, "a version for each Python"


def test_every_file_has_its_digest_in_the_list(release: Path) -> None:
    listed = dict(
        reversed(line.split("  "))
        for line in (release / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
    )
    files = {path.name for path in release.iterdir()} - {"SHA256SUMS"}
    assert listed.keys() == files
    assert {"constraints.txt", "requirements.txt", "sbom.json"} < files
    for name, digest in listed.items():
        assert hashlib.sha256((release / name).read_bytes()).hexdigest() == digest


@pytest.mark.whole_run
def test_pip_takes_the_wheel_of_the_requirements_by_its_digest_and_no_other(
    release: Path, tmp_path: Path
) -> None:
    text = (release / "requirements.txt").read_text(encoding="utf-8")
    own, _, lock = text.partition("\nanyio==")
    assert f"anyio=={lock}" == (ROOT / "locks" / "base.txt").read_text(encoding="utf-8")
    (wheel,) = release.glob("*.whl")
    shutil.copy(wheel, tmp_path)
    (tmp_path / "own.txt").write_text(own + "\n", encoding="utf-8")
    words = ["install", "--no-deps", "--no-index", "--require-hashes", "--target", "there"]
    command = [*PIP, *words, "-r", "own.txt"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    with (tmp_path / wheel.name).open("ab") as file:
        file.write(b"more")
    ended = subprocess.run(
        command, cwd=tmp_path, check=False, capture_output=True, text=True, encoding="utf-8"
    )
    assert ended.returncode != 0
    assert "DO NOT MATCH" in ended.stderr


def test_the_add_on_has_the_wheel_and_digests_of_what_it_needs(release: Path) -> None:
    (archive,) = release.glob("framegate-homeassistant-*.tar.gz")
    (wheel,) = release.glob("*.whl")
    with tarfile.open(archive) as tar:
        names = set(tar.getnames())
        file = tar.extractfile("framegate/requirements.txt")
        assert file is not None
        text = file.read().decode()
    needed = {"config.yaml", "build.yaml", "Dockerfile", "run.py", "icon.png", wheel.name}
    assert {f"framegate/{name}" for name in needed} < names
    assert text.startswith(f"./{wheel.name} \\\n    --hash=sha256:")
    assert {"paho-mqtt", "openvino"} < pinned(text).keys()


@pytest.fixture(scope="module")
def pipx(tmp_path_factory: pytest.TempPathFactory) -> list[str | Path]:
    """The command `pipx`: the machine's, or one from the package index."""
    if found := shutil.which("pipx"):
        return [found]
    venv = tmp_path_factory.mktemp("pipx")
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    subprocess.run([venv / "bin" / "pip", "install", "--quiet", "pipx"], check=True)
    return [venv / "bin" / "pipx"]


@pytest.mark.long
@pytest.mark.parametrize("python", PYTHONS)
def test_pipx_installs_the_locked_versions_which_run_in_any_folder(
    release: Path, pipx: list[str | Path], python: str, tmp_path: Path
) -> None:
    """Downloads 215 MB."""
    probe = "import ensurepip, sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))"
    found = shutil.which(python)
    if found is None or subprocess.run([found, "-c", probe], check=False).returncode != 0:
        pytest.skip(f"needs {python}, of 3.11 to 3.13 and with venv")
    home = tmp_path / "home"
    odd = tmp_path / "a folder, with 'odd' näme"
    odd.mkdir()
    (odd / "models.py").write_text("raise SystemExit('a module of the user')\n", encoding="utf-8")
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "FRAMEGATE", "XDG"))}
    env |= {"HOME": str(home), "PATH": f"{home}/.local/bin:{os.defpath}", "PIPX_HOME": f"{home}/px"}
    env |= {"PIPX_BIN_DIR": f"{home}/.local/bin"}

    def run(*words: str | Path) -> str:
        ended = subprocess.run(
            words, cwd=odd, env=env, capture_output=True, text=True, check=False, encoding="utf-8"
        )
        assert ended.returncode == 0, f"{words}: {ended.stdout}{ended.stderr}"
        return ended.stdout

    (wheel,) = release.glob("*.whl")
    constraints = f"-c {release / 'constraints.txt'}"
    run(*pipx, "install", "--python", found, wheel, "--pip-args", constraints)
    frozen = run(*pipx, "runpip", "framegate", "list", "--format", "json")
    installed = {each["name"].lower(): each["version"] for each in json.loads(frozen)}
    lock = pinned((ROOT / "locks" / "base.txt").read_text(encoding="utf-8"))
    both = installed.keys() & lock.keys()
    assert "openvino" in both
    assert {name: installed[name] for name in both if installed[name] not in lock[name]} == {}
    assert run("framegate", "--version").split()[1] == installed["framegate"]
    assert "all is well" in run("framegate", "check", ROOT / "framegate" / "cli" / "demo.mp4")
    run("framegate", "init", "--help")
    assert "CPU time" in run("framegate", "demo")
