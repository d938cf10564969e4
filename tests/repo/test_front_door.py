"""Issue forms are ones that the host accepts, and pre-commit runs what `make check` runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("[!c]*.yml"))
CAMERA = ROOT / ".github" / "ISSUE_TEMPLATE" / "camera.yml"


@pytest.mark.parametrize("path", [*FORMS, CAMERA], ids=lambda path: str(path.stem))
def test_an_issue_form_has_what_the_host_requires(path: Path) -> None:
    form: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert set(form) == {"name", "description", "labels", "body"}
    ids = []
    for element in form["body"]:
        attributes = element["attributes"]
        if element["type"] == "markdown":
            assert attributes["value"]
            continue
        assert element["type"] in ("input", "textarea", "dropdown")
        assert attributes["label"]
        assert (element["type"] == "dropdown") == ("options" in attributes)
        ids.append(element["id"])
    assert ids
    assert len(set(ids)) == len(ids)


def test_pre_commit_runs_the_commands_of_make_check() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"][
        0
    ]["hooks"]
    entries = {hook["entry"].replace(" --force-exclude", "") for hook in hooks}
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    recipe = re.search(r"^check: install\n((?:\t.*\n)+)", makefile, re.MULTILINE)
    assert recipe is not None
    commands = recipe[1].replace("$(BIN)", ".venv/bin").split("\n")
    assert entries == {command.strip().removesuffix(" .") for command in commands if command}
