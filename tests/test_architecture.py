"""The rules of the code that a reader could not see from one file."""

from __future__ import annotations

import ast
import dataclasses
import functools
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from pipeline.loading import load

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("pipeline", "stages", "models", "benchmarks", "tests")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
MAY_IMPORT = {
    "pipeline": {"pipeline"},
    "models": {"models"},
    "stages": {"stages", "pipeline", "models"},
}
VAGUE = re.compile(r"util|helper|common|manager|misc|(^|_)base$", re.IGNORECASE)
GRAPH = (ROOT / "pipeline.toml").read_text()
STAGES = tomllib.loads(GRAPH)["stages"]


@functools.cache
def trees() -> list[tuple[Path, ast.Module]]:
    return [(path, ast.parse(path.read_text())) for path in FILES]


def imported(tree: ast.Module) -> set[str]:
    """Top-level packages that a module imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names.add((node.module or "").split(".")[0])
    return names


def test_engine_and_models_know_neither_each_other_nor_the_stages() -> None:
    for path, tree in trees():
        package = path.relative_to(ROOT).parts[0]
        ours = imported(tree) & set(PACKAGES)
        assert ours <= MAY_IMPORT.get(package, set(PACKAGES)), f"{path} imports {ours}"


def test_stages_never_touch_the_store_or_the_process_around_them() -> None:
    for path, tree in trees():
        if path.parent.name == "stages" and path.parent.parent == ROOT:
            assert not imported(tree) & {"redis", "hiredis", "socket", "subprocess"}, path


def test_names_say_what_a_thing_is() -> None:
    for path, tree in trees():
        classes = [node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
        assert [name for name in (path.stem, *classes) if VAGUE.search(name)] == [], path


def test_public_things_have_docstrings() -> None:
    for path, tree in trees():
        if path.relative_to(ROOT).parts[0] == "tests":
            continue  # a test's name says it
        assert ast.get_docstring(tree) or not tree.body, f"{path} has none"
        for node in tree.body:
            kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
            if isinstance(node, kinds) and not node.name.startswith(("_", "main")):
                assert ast.get_docstring(node), f"{path}: {node.name} has none"


def test_every_package_is_installed() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    for package in ("pipeline", "stages", "models"):
        assert package in listed
    assert {p.parent.name for p in (ROOT / "models").glob("*/*") if p.suffix == ".xml"} <= {
        name.rpartition(".")[2] for name in listed
    }


def test_the_wheel_has_the_networks_that_run_and_not_what_they_are_made_of() -> None:
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    weights = ROOT / "models" / "weights"
    packed = {
        path.name for what in tools["package-data"]["models.weights"] for path in weights.glob(what)
    }
    every = {path.name for path in weights.iterdir() if path.is_file() and path.suffix != ".py"}
    assert every - packed == {path.name for path in weights.glob("*.safetensors")}


def test_the_packaged_configuration_is_the_one_at_the_top() -> None:
    assert (ROOT / "pipeline" / "pipeline.toml").read_text() == GRAPH


@pytest.mark.parametrize("name", STAGES)
def test_every_option_of_a_stage_stands_in_the_configuration(name: str) -> None:
    kind = load(STAGES[name]["use"])
    section = GRAPH.split(f"[stages.{name}]")[1].split("\n[")[0]
    for field in dataclasses.fields(kind.Options):
        if field.metadata.get("table"):
            section += GRAPH.split(f"\n[{field.name}]")[1].split("\n[")[0]
            continue
        assert re.search(rf"^(# )?{field.name} = ", section, re.MULTILINE), field.name


def test_nothing_is_reported_over_the_network_by_what_we_import() -> None:
    code = "import stages.detect, sys; sys.exit(sys.modules['openvino_telemetry'] is not None)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
