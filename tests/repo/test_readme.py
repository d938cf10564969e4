"""What the documents show works as it stands there: its very lines are compiled, parsed, run."""

from __future__ import annotations

import ast
import importlib
import os
import re
import shlex
import subprocess
import sys
import tempfile
import typing
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from framegate.cli.main import parser
from framegate.pipeline.config.config import read_config
from framegate.pipeline.contracts.results import Object, Result
from framegate.pipeline.fleet.fleet_file import read_fleet
from framegate.pipeline.store.embedded import EmbeddedStore
from framegate.pipeline.web.accounts.accounts import accounts_in
from tests.support.commands import framegate, user_folder
from tests.support.footage import steady, write_scene
from tests.support.published import Publisher
from tests.support.told_store import telling_its_store

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
NAMES = ("README.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))))


def blocks(language: str, name: str = "README.md") -> list[str]:
    text = (ROOT / name).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def all_blocks(language: str) -> list[tuple[str, str]]:
    return [(name, block) for name in NAMES for block in blocks(language, name)]


def the_block(language: str, containing: str, name: str) -> str:
    (found,) = (block for block in blocks(language, name) if containing in block)
    return found


COMMANDS = [
    re.split(" #| >>? ", line)[0].strip().removeprefix(".venv/bin/")
    for _, block in all_blocks("sh")
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
        [sys.executable, "-c", code],
        cwd=folder,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    ) as reader:
        assert reader.stdout is not None
        found = [reader.stdout.readline().rstrip("\n") for _ in range(lines)]
        reader.kill()
    return found


@pytest.mark.parametrize(
    ("name", "containing", "expected"),
    [
        ("docs/results.md", "unix_socket_path", ["1-0 []", "1-1 []", "1-2 []"]),
        ("docs/results.md", "until_end", ["bikes 1-0 []", "bikes 1-1 []", "bikes 1-2 []"]),
        ("docs/results.md", "results.ack", ["people: 0", "people: 0", "people: 0"]),
    ],
)
def test_readers(
    folder: Path, name: str, containing: str, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(folder / "state"))
    url = f"unix://{folder / 'data' / 'store' / 'valkey.sock'}"
    with telling_its_store(folder / "data", url):
        assert shown(folder, the_block("python", containing, name), 3) == expected


def test_the_plain_reader_has_ten_lines() -> None:
    block = the_block("python", "unix_socket_path", "docs/results.md")
    assert len([line for line in block.splitlines() if line]) == 10


@pytest.mark.parametrize(("name", "block"), all_blocks("python"))
def test_python_compiles_and_what_it_imports_is_there(name: str, block: str) -> None:
    own = {"my_stages", "my_source"}  # a reader's
    for node in ast.walk(ast.parse(block, name)):
        if isinstance(node, ast.ImportFrom) and node.module not in own:
            module = importlib.import_module(node.module or "")
            assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []
        elif isinstance(node, ast.Import):
            for alias in node.names:
                importlib.import_module(alias.name)


@pytest.mark.parametrize(("name", "block"), all_blocks("toml"))
def test_configuration_is_accepted(
    name: str, block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    holds = {"url": "rtsp://camera.example/stream", "secret": f"whsec_{'QUJD' * 8}"}
    if 'kind = "mqtt"' in block:
        holds["url"] = "mqtt://broker.example"
    elif 'kind = "heartbeat"' in block:
        holds["url"] = "https://ping.example/id"
    elif 'kind = "kafka"' in block:
        holds["url"] = "kafka://broker.example"
    for key, variable in re.findall(r'(\w+)_env = "(\w+)"', block):
        monkeypatch.setenv(variable, holds.get(key, "secret"))
    for module, kind in (("my_stages", "class People"), ("my_source", "class MyDecode")):
        if module in block:
            code = the_block("python", kind, name)
            (tmp_path / f"{module}.py").write_text(code, encoding="utf-8")
            monkeypatch.syspath_prepend(tmp_path)
    if "accounts_file" in block:
        (tmp_path / "accounts.toml").touch()
        monkeypatch.chdir(tmp_path)
    if "[slots." in block:
        read_fleet(block, name)
        return
    if "[guard]" in block:
        accounts_in(block, Path(name))
        return
    read_config(name, block)


@pytest.mark.whole_run
def test_a_stage_of_ones_own(tmp_path: Path) -> None:
    folder = user_folder(tmp_path, more=the_block("toml", "my_stages", "docs/stages.md"))
    (folder / "my_stages.py").write_text(
        the_block("python", "class People", "docs/stages.md"), encoding="utf-8"
    )
    write_scene(folder / "clip.mp4", steady(9))
    ended = framegate(folder, "run", "clip.mp4", "--json")
    assert ended.code == 0, ended.err
    assert "set aside" not in ended.err
    assert len(ended.results("clip")) == 9


@pytest.mark.whole_run
def test_a_source_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "my_source.py").write_text(
        the_block("python", "class MyDecode", "docs/stages.md"), encoding="utf-8"
    )
    (tmp_path / "pipeline.toml").write_text(
        the_block("toml", "my_source", "docs/stages.md"), encoding="utf-8"
    )
    checked = framegate(tmp_path, "check")
    assert "ramp: your own source 320x240" in checked.out, checked.err
    ended = framegate(tmp_path, "run", "--json")
    assert ended.code == 0, ended.err
    assert [result["pts"] for result in ended.results("ramp")] == [n / 10 for n in range(10)]


def test_a_stage_of_ones_own_in_a_test_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "my_stages.py").write_text(
        the_block("python", "class People", "docs/stages.md"), encoding="utf-8"
    )
    code = the_block("python", "testing.Harness", "docs/stages.md")
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=ENVIRONMENT, check=True)


@pytest.mark.whole_run
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("README.md", ["bikes 0 []", "bikes 1 []", "bikes 2 []"]),
        ("docs/results.md", ["1-0 []", "1-1 []", "1-2 []"]),
    ],
)
def test_a_pipeline_in_ones_own_program(tmp_path: Path, name: str, expected: list[str]) -> None:
    write_scene(tmp_path / "bikes.mp4", steady(3))
    ran = subprocess.run(
        [sys.executable, "-c", the_block("python", "framegate.run(", name)],
        cwd=tmp_path,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=True,
        encoding="utf-8",
    )
    assert ran.stdout.splitlines() == expected


@pytest.mark.parametrize("line", [line for line in COMMANDS if line.startswith("framegate")])
def test_commands_are_understood(line: str) -> None:
    ours, *_ = line.split(" | ")  # what reads it is not ours
    assert parser().parse_args(shlex.split(ours)[1:]).command


def test_the_first_page_shows_what_the_pages_do() -> None:
    assert the_block("python", "class People", "docs/stages.md") in blocks("python")


def test_make_knows_what_is_shown() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    lines = [line.split(" && ")[-1] for line in COMMANDS]
    words = [line.split()[1:] for line in lines if line.startswith("make ")]
    targets = {each[2] if each[0] == "-C" else each[0] for each in words}
    assert {"demo", "base"} <= targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


def test_the_shown_result_has_six_fields_of_a_result_and_their_types() -> None:
    (block,) = blocks("json")
    values = msgspec.json.decode(block)
    assert len(values) == 6
    objects = values.pop("objects")
    assert len(objects) == 3  # three cars are parked
    for struct, shown_fields in ((Result, values), *((Object, item) for item in objects)):
        types = typing.get_type_hints(struct)
        for name, value in shown_fields.items():
            msgspec.convert(value, types[name])
