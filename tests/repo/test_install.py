"""What is installed for running is part of what is installed for developing, and says its size."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def locked(name: str) -> dict[str, set[str]]:
    """Versions by package; of one that has several, for several Pythons."""
    found: dict[str, set[str]] = {}
    for line in (ROOT / "locks" / name).read_text(encoding="utf-8").splitlines():
        if match := re.match(r"([a-z0-9-]+)==([^ ;\\]+)", line):
            found.setdefault(match[1], set()).add(match[2])
    return found


def test_what_runs_is_locked_to_what_is_tested() -> None:
    base, dev = locked("base.txt"), locked("dev.txt")
    assert base
    assert {name: versions - dev.get(name, set()) for name, versions in base.items()} == {
        name: set() for name in base
    }


def test_all_that_is_needed_is_locked_and_nothing_that_only_developers_need() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    base = locked("base.txt")
    needed = [re.match(r"[\w-]+", one)[0] for one in project["dependencies"]]
    assert [name for name in needed if name not in base] == []
    extras = project["optional-dependencies"]
    tools = {re.match(r"[\w-]+", one)[0] for extra in ("test", "bench") for one in extras[extra]}
    assert tools & base.keys() == set()


def test_the_pages_tell_the_size_that_make_tells() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    ((download, disk),) = re.findall(
        r"^BASE := (\d+ MB) to download, (\d+ MB) on disk$", makefile, re.M
    )
    assert int(disk.split()[0]) <= 800
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert f"downloads {download} of packages, {disk} on disk" in text
    assert f"into .venv: {disk}" in (ROOT / "docs" / "running.md").read_text(encoding="utf-8")
