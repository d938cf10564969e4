"""The models of a run: copies in its folder, so that their names keep their meaning."""

from __future__ import annotations

import os
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from framegate.models import coco
from framegate.models.errors import ModelError
from framegate.models.registry.manifest import Manifest
from framegate.models.registry.model_folder import ModelFolder
from framegate.models.registry.registry import Registry

SPARE_MODELS = 8


def pinned_model(ref: str, folder: Path, registry: str | None) -> ModelFolder:
    """Return the model that `ref` names in a run, copied into the run's folder on first use.

    folder    the run's folder
    registry  folder of the added models; None: the user's own

    A resumed run uses the copy, even if models were added or removed meanwhile. Raises
    UnknownModel, AmbiguousModel, ModelUnreadable, ManifestRefused, ModelRefused.
    """
    copies = Registry(folder / "models")
    note = folder / "models" / "meant" / ref
    with suppress(OSError, ModelError):
        return copies.find(note.read_text(encoding="utf-8"))
    with suppress(ModelError):
        copy = copies.find(ref)
        if ref.endswith(copy.manifest.sha256):  # a digest is unambiguous and needs no note
            return copy
    added = Registry(None)
    if registry:
        added = Registry(Path(registry))
    copy = copies.put(added.find(ref))
    note.parent.mkdir(exist_ok=True)
    new = note.with_name(f"{note.name}.{os.getpid()}.new")
    new.write_text(f"{copy.manifest.name}@{copy.manifest.sha256}", encoding="utf-8")
    new.replace(note)
    return copy


def has_model(ref: str, folder: Path) -> bool:
    """Return True if NAME@DIGEST is among the models of a run or of the user."""
    for registry in (Registry(folder / "models"), Registry(None)):
        with suppress(ModelError):
            return bool(registry.find(ref))
    return False


def forget_models(folder: Path, named: Collection[str | None]) -> None:
    """Remove a run's unused copies of models, except the SPARE_MODELS newest.

    named  models in use, as NAME@DIGEST; models that a configured name means count as in use too
    """
    copies = Registry(folder / "models")
    in_use = set(named)
    for note in (folder / "models" / "meant").glob("*"):
        with suppress(OSError):
            in_use.add(note.read_text(encoding="utf-8"))
    refs = [f"{model.manifest.name}@{model.manifest.sha256}" for model in copies.models()]
    unused = [ref for ref in refs if ref not in in_use]
    for ref in unused[SPARE_MODELS:]:
        with suppress(ModelError):
            copies.remove(ref)


def unanswerable(
    manifest: Manifest, labels: Collection[str] | None, asked_for: Collection[str] | None
) -> str | None:
    """Return the reason why the heavy pass cannot check a model, or None.

    labels     labels that it reports; None: its default ones
    asked_for  labels that the heavy pass detects; None: all that it knows

    A class that is not COCO's is refused even if it is not reported: the model's class ids are then
    its own (see `labels_of`), and the same id means another class in an answer of the heavy pass.
    """
    foreign = [label for label in manifest.classes if label not in coco.LABELS]
    if foreign:
        return (
            f"the heavy pass knows COCO's 80 classes only, and this model also has "
            f"{', '.join(foreign[:5])}; set [escalate] place = 'off'"
        )
    used = labels or manifest.default_classes
    missing = [label for label in used if asked_for is not None and label not in asked_for]
    if missing:
        return (
            f"the heavy pass would not detect {', '.join(missing[:5])}; set the same `classes` in "
            "both stages, a list or 'all'"
        )
    return None
