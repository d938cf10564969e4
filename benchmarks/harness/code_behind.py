"""The code that a figure comes from: a module, our modules that it imports, and what these name.

Nothing is run for this. A text in the code that names a module of ours
(`"framegate.cli"`, `"framegate.stages.detect:Detect"`) counts as an import, since
processes and stages are started by such names; so does one that names a file beside it
(`"hop.lua"`, `"labels.json"`), the folder of weights, or one of programs or labels beside it.
"""

from __future__ import annotations

import ast
import hashlib
import re
import subprocess
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_MADE = ("visits.json",)  # a benchmark writes it with its result
OURS = ("benchmarks", "framegate", "tests", "tools")
_SELF = Path(__file__).resolve()
# They decide how old a figure is and whether it is kept, not what it is.
_NO_FIGURES = (_SELF, _SELF.with_name("other_work.py"))


@cache
def code_behind(module: str) -> tuple[Path, ...]:
    """Return every file of ours that decides what the module measures, sorted."""
    start = _module(module)
    ahead = [] if start is None else [start]
    found = set(ahead)
    while ahead:
        new = set(_reaches(ahead.pop())) - found
        found |= new
        ahead += new
    return tuple(sorted(found - set(_NO_FIGURES)))


@cache
def digest_of(module: str) -> str:
    """Return a digest of all bytes behind it: a figure with another one is of other code."""
    digest = hashlib.sha256()
    for path in code_behind(module):
        digest.update(f"{path.relative_to(ROOT)}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def commit_of(module: str) -> str | None:
    """Return the commit of the checkout, with a `+` if code behind the module differs from it.

    None: this is no checkout.
    """
    files = [str(path.relative_to(ROOT)) for path in code_behind(module)]
    commit = _git("rev-parse", "HEAD")
    changed = _git("status", "--porcelain", "--", *files)
    if commit is None or changed is None:
        return None
    if changed:
        return f"{commit}+"
    return commit


def short_commit(commit: str | None) -> str:
    """Return the first digits of what `commit_of` returned, with its `+`; `unknown` for None."""
    if commit is None:
        return "unknown"
    is_changed = commit.endswith("+")
    return commit[:9] + "+" * is_changed


def _git(*words: str) -> str | None:
    command = ("git", "-C", str(ROOT), *words)
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=30, check=True, encoding="utf-8"
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


@cache
def _reaches(path: Path) -> tuple[Path, ...]:
    """Return the files of ours that a file imports or names."""
    if path in _NO_FIGURES:
        return ()
    if path.suffix == ".toml":
        return tuple(_files(re.findall(r'"([\w.]+):\w+"', path.read_text(encoding="utf-8")), path))
    return tuple(_files(_named(path), path)) if path.suffix == ".py" else ()


def _files(names: Iterable[str], path: Path) -> Iterator[Path]:
    for name in names:
        if name == "weights":
            yield from (ROOT / "models" / "weights").glob("*.*")
        elif name == "programs":
            yield from (path.parent / name).rglob("*.*")
        elif name in ("labels", "second_pass"):
            yield from (path.parent / name).glob("*.json")
        elif name.endswith((".lua", ".toml", ".html", ".json")) and name not in _MADE:
            folders = (path.parent, ROOT / "pipeline" / "config", ROOT / "pipeline" / "web")
            places = [folder / name for folder in folders]
            yield from [place for place in places if place.is_file()]
        elif name.partition(".")[0] in OURS and (module := _module(name)) is not None:
            yield module
            if (started := module.with_name("__main__.py")).is_file():
                yield started


def _named(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value.partition(":")[0]


def _module(name: str) -> Path | None:
    """Return the file of a module; of `a.b.c`, if `c` is a name in the module `a.b`, that of it."""
    parts = name.split(".") if re.fullmatch(r"\w+(\.\w+)+", name) else []
    is_linked = parts[:1] == ["framegate"] and (ROOT / parts[1]).is_dir()
    if is_linked:
        parts = parts[1:]
    while len(parts) > 1:
        path = ROOT.joinpath(*parts)
        for file in (path.with_suffix(".py"), path / "__init__.py"):
            if file.is_file():
                return file
        parts.pop()
    return None
