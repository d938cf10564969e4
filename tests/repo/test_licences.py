"""What is shipped has licences that may be passed on, and the page and the SBOM say which."""

from __future__ import annotations

import importlib.util
import json
import platform
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "deploy" / "licences.py"
SBOM = json.loads((ROOT / "deploy" / "sbom.json").read_text(encoding="utf-8"))
as_written = pytest.mark.skipif(
    (sys.version_info[:2], platform.machine()) != ((3, 11), "x86_64"),
    reason="the page is of Python 3.11 on x86-64",
)


@pytest.fixture(scope="module")
def licences() -> Any:
    """deploy/licences.py as a module."""
    spec = importlib.util.spec_from_file_location("deploy_licences", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclass looks there
    spec.loader.exec_module(module)
    return module


@as_written
def test_page_and_sbom_are_of_what_is_locked_and_installed() -> None:
    command = [sys.executable, SCRIPT, "--check"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, encoding="utf-8")
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize(
    ("licence", "is_told"),
    [
        ("GPL-3.0-only", True),
        ("AGPL-3.0-or-later", True),
        ("MIT OR GPL-2.0-only", True),
        ("SSPL-1.0", True),
        ("LGPL-2.1-or-later", False),
        ("GPL-3.0-or-later WITH GCC-exception-3.1", False),
        ("MIT", False),
    ],
)
def test_a_licence_that_asks_for_source_is_told(licences: Any, licence: str, is_told: bool) -> None:
    one = licences.Package("new", "1", licence, (), ())
    inside = replace(one, licence="MIT", inside=(("libnew", licence),))
    for package in (one, inside):
        assert licences.faults([package]) == [f"new: {licence}"] * is_told


def test_what_is_said_of_the_decoder_is_said_of_it_alone(licences: Any) -> None:
    inside = (("x264", "GPL-2.0-or-later"),)
    assert licences.faults([licences.Package("av", "1", "MIT", (), inside)]) == []
    assert licences.faults([licences.Package("va", "1", "MIT", (), inside)]) != []
    page = " ".join((ROOT / "docs" / "licences.md").read_text(encoding="utf-8").split())
    assert "x264 and x265" in page


def test_a_library_in_a_wheel_that_nobody_looked_at_ends_it(
    licences: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(licences.BUNDLED["av"], "libx264")
    with pytest.raises(SystemExit, match=r"av: libx264.* licence nobody has looked up"):
        licences.packages()


def test_the_sbom_has_the_weights_with_their_sums_and_hashes_of_each_package() -> None:
    assert (SBOM["bomFormat"], SBOM["metadata"]["component"]["name"]) == ("CycloneDX", "framegate")
    manifest = ROOT / "models" / "weights" / "manifest.toml"
    rows = {
        row["file"]: row["sha256"]
        for row in tomllib.loads(manifest.read_text(encoding="utf-8"))["files"]
    }
    sums = {one["name"]: {h["content"] for h in one["hashes"]} for one in SBOM["components"]}
    for name in ("nanodet-plus.bin", "surveillance-int8.xml"):
        assert sums[name] == {rows[name]}
    assert all(sums.values())
    assert all(one["licenses"] for one in SBOM["components"])
