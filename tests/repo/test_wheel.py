"""What is installed from a wheel works, in a folder whose files have the names of our parts."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from pathlib import Path

import msgspec
import pytest

from framegate.pipeline.contracts.results import Result
from tests.support.footage import steady, write_scene
from tests.support.own_servers import free_port
from tests.support.runs import DEADLINE_S, wait_until

pytestmark = pytest.mark.whole_run

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8")
NAMES = ("models", "pipeline", "stages")
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
OFFLINE = ["--no-deps", "--no-index", "--quiet"]
STAGE = """
from framegate import Stage

class Mine(Stage):
    def each(self, item, state):
        (self.context.folder / "mine").touch()
        return None, state
"""


def run(*words: str | Path, cwd: Path) -> str:
    """Run a command as a user's shell would: with nothing of this checkout on its path."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "FRAMEGATE"))}
    env["XDG_STATE_HOME"] = str(cwd / "state")
    ended = subprocess.run(
        words, cwd=cwd, env=env, capture_output=True, text=True, check=False, encoding="utf-8"
    )
    assert ended.returncode == 0, f"{words}: {ended.stderr}"
    return ended.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what the image is built from, as the Dockerfile copies it."""
    folder = tmp_path_factory.mktemp("source")
    ours = shutil.ignore_patterns("__pycache__")
    for line in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.MULTILINE):
        *names, to = line.split()
        for name in names:
            to = to.removeprefix("/opt/framegate/")
            place = folder / to / name if to.endswith("/") else folder / to
            place.parent.mkdir(parents=True, exist_ok=True)
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, place, symlinks=True, ignore=ours)
            else:
                shutil.copy(ROOT / name, place)
    return folder


def wheel_of(what: Path, folder: Path) -> Path:
    """Build a wheel from a folder or a source distribution."""
    words = ["wheel", *OFFLINE, "--no-build-isolation", "-w", folder, what]
    subprocess.run([*PIP, *words], check=True, cwd=folder)
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return wheel_of(source, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def bin_folder(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return installed(wheel, tmp_path_factory.mktemp("venv"))


def installed(wheel: Path, venv: Path) -> Path:
    """The commands of a fresh environment with the wheel; what it needs is taken from here."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    (packages,) = venv.glob("lib/python*/site-packages")
    (packages / "needs.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    python = venv / "bin" / "python"
    subprocess.run([*PIP, "--python", python, "install", *OFFLINE, wheel], check=True)
    return venv / "bin"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder: a clip, modules of one's own, and a stage in one of them."""
    place = tmp_path_factory.mktemp("mine")
    write_scene(place / "clip.mp4", steady(9))
    for name in NAMES:
        (place / f"{name}.py").write_text(f"MINE = {name!r}\n", encoding="utf-8")
    with (place / "stages.py").open("a", encoding="utf-8") as file:
        file.write(STAGE)
    mine = '[stages.mine]\nuse = "stages:Mine"\non_lag = "wait"\n'
    (place / "pipeline.toml").write_text(mine, encoding="utf-8")
    return place


def test_what_is_imported_is_the_wheels_and_modules_of_ones_own_stay_ones_own(
    bin_folder: Path, folder: Path
) -> None:
    code = (
        "import framegate.pipeline, framegate.stages, framegate.models; print(framegate.__file__);"
        "import models, pipeline, stages; print(models.MINE, pipeline.MINE, stages.MINE)"
    )
    ours, theirs = run(bin_folder / "python", "-c", code, cwd=folder).splitlines()
    assert Path(ours).is_relative_to(bin_folder.parent)
    assert theirs.split() == list(NAMES)


def test_a_clip_runs_through_the_pipeline_and_a_stage_of_ones_own(
    bin_folder: Path, folder: Path
) -> None:
    printed = run(bin_folder / "framegate", "run", "clip.mp4", "--json", "-d", "data", cwd=folder)
    results = [msgspec.json.decode(line, type=Result) for line in printed.splitlines()]
    assert [str(result.position) for result in results] == [f"1-{n}" for n in range(9)]
    assert (folder / "data" / "mine").exists()


def test_what_an_index_would_show_stands_by_itself(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as file:
        (name,) = [one for one in file.namelist() if one.endswith(".dist-info/METADATA")]
        text = file.read(name).decode()
    assert "Programming Language :: Python :: 3.13" in text
    assert "Description-Content-Type: text/markdown" in text
    shown = text.partition("\n\n")[2]
    assert "framegate doctor" in shown
    assert re.findall(r"\]\((?!https?:)[^)]*\)|<img[^>]*>", shown) == [], "files of a repository"


def in_the_dockerfile(word: str) -> str:
    """What follows a word at the beginning of the only line that has it."""
    (found,) = re.findall(rf"^{word} (.*)$", DOCKERFILE, re.MULTILINE)
    return str(found)


def test_what_the_image_runs_is_healthy_and_says_how_to_give_it_a_camera(
    bin_folder: Path,
) -> None:
    with tempfile.TemporaryDirectory(prefix="framegate-image-") as name:
        root = Path(name)
        (etc, data), clip = (root / "etc", root / "data"), root / "clip.mp4"
        etc.mkdir()
        data.mkdir()
        write_scene(clip, steady(9))
        port = str(free_port())
        env = {"PATH": f"{bin_folder}:{os.defpath}", "HOME": str(data)}
        if as_user := _as_the_image_user():
            os.chown(data, int(in_the_dockerfile("USER")), -1)

        def there(*words: str) -> subprocess.CompletedProcess[str]:
            """As `docker exec` runs it."""
            return subprocess.run(
                [*as_user, *words],
                cwd=etc,
                env=env,
                capture_output=True,
                text=True,
                check=False,
                encoding="utf-8",
            )

        def runs(*words: str) -> str:
            ended = there(*words)
            assert ended.returncode == 0, ended.stderr
            return ended.stdout

        runs("python", "-c", "import apprise, paho.mqtt.client")
        words = [
            *json.loads(in_the_dockerfile("ENTRYPOINT")),
            *json.loads(in_the_dockerfile("CMD")),
        ]
        words = [w.replace("/var/lib/framegate", str(data)).replace("8686", port) for w in words]
        health = json.loads(in_the_dockerfile("HEALTHCHECK").partition("CMD ")[2])
        health = [word.replace("8686", port) for word in health]
        said = root / "said.txt"
        with said.open("w", encoding="utf-8") as err:
            run = subprocess.Popen([*as_user, *words], cwd=etc, env=env, stderr=err)
        try:
            wait_until(
                "is healthy", lambda: there(*health).returncode == 0 or run.poll() is not None
            )
            assert "framegate add NAME=URL" in said.read_text(encoding="utf-8")
            assert (data / "http.token").exists(), "whoever reaches its port needs it"
            runs("framegate", "add", f"entrance={clip}")
            wait_until(
                "is done with the clip",
                lambda: json.loads(runs("framegate", "sources", "--json"))[0]["published"] == 9,
            )
            run.terminate()
            assert run.wait(DEADLINE_S) == 0, said.read_text(encoding="utf-8")
        finally:
            run.kill()
            run.wait()


def _as_the_image_user() -> list[str]:
    """What has a command run as the image's user, who may still read this installation, wherever
    it lies; nothing where this user may become nobody else.
    """
    user = in_the_dockerfile("USER")
    may_read = ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
    words = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", *may_read]
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        return []
    ended = subprocess.run([*words, "true"], capture_output=True, check=False)
    return words if ended.returncode == 0 else []


def test_the_demos_clip_comes_along_with_its_licence(wheel: Path) -> None:
    folder = "framegate/cli"
    assert {f"{folder}/demo.mp4", f"{folder}/demo-LICENSE.txt"} <= contents(wheel).keys()


def test_the_wheel_has_the_default_configuration_of_this_checkout(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as file:
        packaged = file.read("framegate/pipeline/config/pipeline.toml")
    assert packaged == (ROOT / "pipeline.toml").read_bytes()


def test_check_and_models(bin_folder: Path, folder: Path) -> None:
    checked = run(bin_folder / "framegate", "check", "clip.mp4", cwd=folder)
    assert "stages:Mine" in checked
    run(bin_folder / "framegate", "models", "list", cwd=folder)


def test_a_source_distribution_gives_the_same_wheel(
    source: Path, wheel: Path, tmp_path: Path
) -> None:
    code = f"import setuptools.build_meta as build; build.build_sdist({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=source, check=True, capture_output=True)
    (packed,) = tmp_path.glob("*.tar.gz")
    again = wheel_of(packed, tmp_path)
    assert contents(again) == contents(wheel)


def contents(wheel: Path) -> dict[str, int]:
    """Sums of all files but the list of them."""
    with zipfile.ZipFile(wheel) as file:
        return {i.filename: i.CRC for i in file.infolist() if not i.filename.endswith("RECORD")}
