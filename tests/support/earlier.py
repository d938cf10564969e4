"""The package of an earlier version, from the history of this repository.

A rolling upgrade runs it beside the present one. VERSION is the last release; before the first one,
the last commit that has slots and whose function library differs from the present one.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

VERSION = "b581e9a50693e4ef836d1f0f2d9ead11e9e68a99"
_ROOT = Path(__file__).parents[2]
_CODE = ("framegate", "pipeline", "pipeline.toml", "stages", "models")
_BUT = ":(exclude)models/weights/*.bin"


def earlier_package(folder: Path) -> Path:
    """Put the earlier package into `folder` and return the path by which Python finds it.

    The networks are left out: they are large, and the stages of the tests use none. The test is
    skipped in a checkout without history.
    """
    folder.mkdir()
    archive = folder / "code.tar"
    git = ["git", "-C", str(_ROOT), "archive", "-o", str(archive), VERSION, *_CODE, _BUT]
    made = subprocess.run(git, check=False, capture_output=True)
    if made.returncode:
        pytest.skip(f"needs the history of the repository: {made.stderr.decode().strip()}")
    subprocess.run(["tar", "-xf", str(archive), "-C", str(folder)], check=True)
    return folder
