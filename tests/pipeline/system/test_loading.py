"""What the engine reaches by dotted path: all of it is there, and is named in one place."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from framegate import pipeline
from framegate.pipeline.system.loading import BUILTINS, DECLARED, load_builtin

ENGINE = Path(pipeline.__file__).resolve().parent


@pytest.mark.parametrize("name", BUILTINS)
def test_what_is_named_is_there(name: str) -> None:
    assert callable(load_builtin(name))


def test_no_other_file_of_the_engine_names_a_stage_or_a_model() -> None:
    for path in ENGINE.rglob("*.py"):
        nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        texts = {node.value for node in nodes if isinstance(node, ast.Constant)}
        named = {
            text
            for text in texts
            if isinstance(text, str) and text.startswith(("framegate.stages", "framegate.models"))
        }
        known: set[str] = set()
        if path.name == "loading.py":
            known = {*BUILTINS.values(), *DECLARED, *DECLARED.values()}
        assert named == known, path
