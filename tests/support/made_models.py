"""Model folders for tests: a real tiny network, or bytes that stand for one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from framegate.models.registry.manifest import MANIFEST, InputSpec, Manifest
from framegate.models.registry.model_folder import ModelFolder, open_folder, sha256_of


def manifest(**changes: Any) -> Manifest:
    """One that is right, but for `changes`."""
    said: dict[str, Any] = {
        "name": "yard",
        "version": "1",
        "task": "detect",
        "classes": ("person", "car"),
        "input": InputSpec(64, 48),
        "precision": "f32",
        "format": "yolo",
        "options": {},
        "outputs": ("output0",),
        "min_score": 0.25,
        "nms_iou": 0.5,
        "max_boxes": 100,
        "files": {"model.xml": "0" * 64, "model.bin": "1" * 64},
        "metrics": {},
        "licence": "",
        "provenance": "a test",
    }
    return Manifest(**{**said, **changes})


def folder_of(path: Path, content: str = "network", **changes: Any) -> ModelFolder:
    """A folder at `path` whose files hold `content` and whose sums are right."""
    path.mkdir(parents=True)
    for name in ("model.xml", "model.bin"):
        (path / name).write_text(f"{content} {name}", encoding="utf-8")
    files = {name: sha256_of(path / name) for name in ("model.xml", "model.bin")}
    (path / MANIFEST).write_text(
        manifest(**{"files": files, **changes}).to_json(), encoding="utf-8"
    )
    return open_folder(path)
