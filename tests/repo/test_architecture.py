"""The rules of the code that a reader could not see from one file."""

from __future__ import annotations

import ast
import functools
import graphlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from framegate.pipeline.config.config import packaged_text
from tests.repo.imports import (
    ARCHITECTURE,
    LAYERS,
    PARTS,
    PICTURE,
    edges,
    folder_rows,
    layer,
    modules,
    nodes,
    picture,
    with_folder_rows,
)

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("framegate", *PARTS, "benchmarks", "tests", "tools")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
MAY_IMPORT = {"pipeline": {"pipeline"}, "models": {"models"}, "stages": set(PARTS)}
VAGUE = re.compile(r"util|helper|common|manager|misc|(^|_)base$", re.IGNORECASE)
# Of the store's code: how many certificates it keeps, whether a URL is one.
OPENS_NOTHING = {
    f"framegate.pipeline.store.{name}"
    for name in ("retention.CERTIFICATES", "redis_client.url_fault")
}
# The only stage that opens connections is decode, and these are its clients.
CAMERA_CLIENTS = {
    *(ROOT / "stages" / "decode" / "rtsp").glob("*.py"),
    ROOT / "stages" / "decode" / "http_camera.py",
}
GRAPH = packaged_text()
STAGES = tomllib.loads(GRAPH)["stages"]


@functools.cache
def imported(path: Path) -> set[str]:
    return set(modules(path))


def test_engine_and_models_know_neither_each_other_nor_the_stages() -> None:
    for part, others in MAY_IMPORT.items():
        for path in (ROOT / part).rglob("*.py"):
            reached = {there[0] for name in imported(path) if (there := layer(name))}
            assert reached <= others, f"{path} imports {reached - others}"


def test_nothing_below_the_command_line_imports_it() -> None:
    for part in (*PARTS, "framegate"):
        for path in (ROOT / part).rglob("*.py"):
            if path.is_relative_to(ROOT / "framegate" / "cli"):
                continue
            upward = {name for name in imported(path) if name.startswith("framegate.cli.")}
            assert not upward or path.name == "__main__.py", f"{path} imports {upward}"


def test_no_folder_imports_more_than_its_row_allows() -> None:
    for (part, folder), reached in edges().items():
        for other, files in reached.items():
            allowed = LAYERS[part][folder]
            assert other in allowed, f"{part}/{folder} imports {other} in {sorted(files)[0]}"


def test_what_the_rows_allow_is_used_and_has_no_cycle() -> None:
    for part, rows in LAYERS.items():
        graphlib.TopologicalSorter(rows).prepare()  # CycleError if there is one
        folders = {path.name for path in (ROOT / part).iterdir() if any(path.glob("*.py"))}
        assert set(rows) == {"", *folders}
        for folder, allowed in rows.items():
            assert set(edges().get((part, folder), {})) == set(allowed), f"{part}/{folder}"


def test_the_picture_of_the_imports_is_of_the_code_as_it_is() -> None:
    assert PICTURE.read_text(encoding="utf-8") == picture(), "make graph draws it"


def test_architecture_lists_each_folder_as_its_docstring_describes_it() -> None:
    text = ARCHITECTURE.read_text(encoding="utf-8")
    assert "<!-- folders -->" in text
    assert text == with_folder_rows(text), "make graph writes it"
    assert [row for row in folder_rows().splitlines() if "|  |" in row] == []


def test_our_code_is_imported_by_one_name_and_knows_no_tests() -> None:
    for path in FILES:
        roots = {name.partition(".")[0] for name in imported(path)}
        assert not roots & set(PARTS), f"{path}: framegate.{min(roots & set(PARTS))}"
        if path.relative_to(ROOT).parts[0] in ("framegate", *PARTS):
            assert not roots & {"tests", "benchmarks", "tools"}, path


def test_benchmarks_share_only_what_supports_tests() -> None:
    for path in (ROOT / "benchmarks").rglob("*.py"):
        shared = {name for name in imported(path) if name.startswith("tests.")}
        assert all(name.startswith("tests.support.") for name in shared), f"{path}: {shared}"


def test_a_users_stage_loads_no_client_and_no_arrays() -> None:
    code = "import framegate.pipeline.contracts.stage, sys; print(*sorted(sys.modules))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, encoding="utf-8"
    )
    assert not {"redis", "hiredis", "numpy", "cv2", "openvino", "av"} & set(loaded.stdout.split())


LOADED = """
import sys
import framegate.cli.run
from framegate.pipeline.config.config import find_config, read_config
read_config(*find_config(None))
print(*sorted(sys.modules))
"""


def test_a_run_starts_without_what_only_its_workers_and_its_http_process_need() -> None:
    """Nor does it need what draws on a terminal; the options of stages are read without stages."""
    loaded = subprocess.run(
        [sys.executable, "-c", LOADED],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        encoding="utf-8",
    )
    theirs = {"starlette", "uvicorn", "prometheus_client", "rich"}
    arrays = {"numpy", "cv2", "av", "openvino", "scipy"}
    assert (theirs | arrays) & set(loaded.stdout.split()) == set()


def reads_environment(path: Path) -> bool:
    """Whether a file names os.environ or os.getenv."""
    names = {node.attr for node in nodes(path) if isinstance(node, ast.Attribute)}
    return bool(names & {"environ", "getenv"}) or bool({"os.environ", "os.getenv"} & imported(path))


def test_stages_never_touch_the_store_or_the_process_around_them() -> None:
    for path in (ROOT / "stages").rglob("*.py"):
        roots = {name.partition(".")[0] for name in imported(path)}
        assert not roots & {"redis", "hiredis", "subprocess"}, path
        assert "socket" not in roots or path in CAMERA_CLIENTS, path
        store = {name for name in imported(path) if name.startswith("framegate.pipeline.store")}
        assert store <= OPENS_NOTHING, path
        assert not reads_environment(path), f"{path} reads the environment"


def test_names_say_what_a_thing_is() -> None:
    for path in FILES:
        classes = [node.name for node in nodes(path) if isinstance(node, ast.ClassDef)]
        assert [name for name in (path.stem, *classes) if VAGUE.search(name)] == [], path


def module_of(all_nodes: Sequence[ast.AST]) -> ast.Module:
    module = all_nodes[0]
    assert isinstance(module, ast.Module)
    return module


def types_of(all_nodes: Sequence[ast.AST]) -> Iterator[str]:
    """Names of classes, wherever they are, and of the module's type aliases; without `_`.

    all_nodes  of a file, its module first
    """
    for node in all_nodes:
        if isinstance(node, ast.ClassDef):
            yield node.name.lstrip("_")
    for node in module_of(all_nodes).body:
        target = node.targets[0] if isinstance(node, ast.Assign) else None
        if isinstance(node, ast.AnnAssign) and "TypeAlias" in ast.unparse(node.annotation):
            target = node.target
        if isinstance(target, ast.Name) and re.match(r"_?[A-Z]\w*[a-z]", target.id):
            yield target.id.lstrip("_")


@pytest.mark.parametrize(
    "line",
    [
        "class _Kept: ...",
        "def read():\n    class Kept: ...",
        "Kept = tuple[int, str]",
        "_Kept: TypeAlias = int",
    ],
)
def test_a_type_is_seen_however_it_is_defined(line: str) -> None:
    tree = ast.parse(f"KEPT = 1\nkept: Final = 2\n{line}")
    assert [*types_of([*ast.walk(tree)])] == ["Kept"]


def test_no_type_name_stands_for_two_types() -> None:
    homes: dict[str, list[Path]] = {}
    for path in FILES:
        parts = path.relative_to(ROOT).parts
        shared_code = (("framegate", "cli"), ("benchmarks", "harness"))
        if parts[0] in PARTS or parts[:2] in shared_code:
            for name in types_of(nodes(path)):
                homes.setdefault(name, []).append(path)
    assert {name: paths for name, paths in homes.items() if len(paths) > 1} == {}


def test_public_things_have_docstrings() -> None:
    for path in FILES:
        if path.relative_to(ROOT).parts[0] == "tests":
            continue  # a test's name says it
        if "programs" in path.parts:
            continue  # a newcomer's
        tree = module_of(nodes(path))
        assert ast.get_docstring(tree) or not tree.body, f"{path} has none"
        for node in tree.body:
            kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
            if isinstance(node, kinds) and not node.name.startswith(("_", "main")):
                if any(ast.unparse(by) == "overload" for by in node.decorator_list):
                    continue  # what is overloaded says it
                assert ast.get_docstring(node), f"{path}: {node.name} has none"


def test_every_package_is_installed_by_its_link() -> None:
    assert {path.name for path in (ROOT / "framegate").iterdir() if path.is_symlink()} == set(PARTS)
    for part in PARTS:
        assert (ROOT / "framegate" / part).resolve() == ROOT / part
        for folder in {path.parent for path in (ROOT / part).rglob("*.py")}:
            assert (folder / "__init__.py").is_file(), folder


def test_the_wheel_has_all_weights() -> None:
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"][
        "setuptools"
    ]
    weights = ROOT / "models" / "weights"
    packed = {
        path.name
        for what in tools["package-data"]["framegate.models.weights"]
        for path in weights.glob(what)
    }
    every = {path.name for path in weights.iterdir() if path.is_file() and path.suffix != ".py"}
    assert every == packed


def test_nothing_is_reported_over_the_network_by_what_we_import() -> None:
    code = (
        "import framegate.stages.detect.stage, sys\n"
        "sys.exit(sys.modules['openvino_telemetry'] != None)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
