"""What the README shows works as it stands there: its very lines are run."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from framegate.pipeline.cli.main import parser
from framegate.pipeline.records import Result
from framegate.pipeline.store.embedded import EmbeddedStore
from tests.support.commands import framegate, user_folder
from tests.support.footage import steady, write_scene
from tests.support.published import Publisher
from tests.support.told_store import telling_its_store

pytestmark = pytest.mark.timeout(120)
ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def the_block(language: str, containing: str) -> str:
    (found,) = (block for block in blocks(language) if containing in block)
    return found


COMMANDS = [
    line.partition("#")[0].strip().removeprefix(".venv/bin/")
    for block in blocks("sh")
    for line in block.splitlines()
]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a run's data in it; its name is short, since a socket lies in it."""
    with tempfile.TemporaryDirectory(prefix="fg-") as name:
        store = EmbeddedStore(Path(name, "data", "store"), "everysec")
        store.start()
        publisher = Publisher(store)
        publisher.results("bikes", 1, range(3))
        publisher.end("bikes", 1, 3)
        publisher.client.close()
        yield Path(name)
        store.stop()


def shown(folder: Path, code: str, lines: int) -> list[str]:
    """Run code in the folder and take its first lines."""
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=folder, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True
    ) as reader:
        assert reader.stdout is not None
        found = [reader.stdout.readline().rstrip("\n") for _ in range(lines)]
        reader.kill()
    return found


@pytest.mark.parametrize(
    ("containing", "expected"),
    [
        ("unix_socket_path", ["1-0 []", "1-1 []", "1-2 []"]),
        ("until_end", ["bikes 1-0 []", "bikes 1-1 []", "bikes 1-2 []"]),
        ("results.ack", ["people: 0", "people: 0", "people: 0"]),
    ],
)
def test_readers(
    folder: Path, containing: str, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(folder / "state"))
    url = f"unix://{folder / 'data' / 'store' / 'valkey.sock'}"
    with telling_its_store(folder / "data", url):
        assert shown(folder, the_block("python", containing), 3) == expected


def test_the_plain_reader_has_ten_lines() -> None:
    lines = [line for line in the_block("python", "unix_socket_path").splitlines() if line]
    assert len(lines) == 10


def test_a_stage_of_ones_own(tmp_path: Path) -> None:
    folder = user_folder(tmp_path, more=the_block("toml", "my_stages"))
    (folder / "my_stages.py").write_text(the_block("python", "class People"))
    write_scene(folder / "clip.mp4", steady(9))
    ended = framegate(folder, "run", "clip.mp4", "--json")
    assert ended.code == 0, ended.err
    assert "set aside" not in ended.err
    assert len(ended.results("clip")) == 9


def test_a_stage_of_ones_own_in_a_test_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "my_stages.py").write_text(the_block("python", "class People"))
    code = the_block("python", "testing.Harness")
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=ENVIRONMENT, check=True)


def test_a_pipeline_in_ones_own_program(tmp_path: Path) -> None:
    write_scene(tmp_path / "bikes.mp4", steady(3))
    ran = subprocess.run(
        [sys.executable, "-c", the_block("python", "framegate.run(")],
        cwd=tmp_path,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert [line.split()[0] for line in ran.stdout.splitlines()] == ["1-0", "1-1", "1-2"]


@pytest.mark.parametrize("line", [line for line in COMMANDS if line.startswith("framegate")])
def test_commands_are_understood(line: str) -> None:
    assert parser().parse_args(shlex.split(line)[1:]).command


def test_make_knows_what_is_shown() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = {line.split()[1] for line in COMMANDS if line.startswith("make ")}
    assert targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


def test_the_shown_result_is_one() -> None:
    (line,) = blocks("json")
    shown_result = msgspec.json.decode(line, type=Result)
    assert shown_result.source == "bikes"
    assert set(msgspec.json.decode(line)) == set(Result.__struct_fields__) - {"gate", "degraded"}
