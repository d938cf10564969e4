"""A model from a foreign file, or from a finished folder, into the registry: all steps in order."""

import shutil
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from framegate.models.conversion import convert
from framegate.models.conversion.convert import Foreign
from framegate.models.conversion.proof import Proof, Thresholds, metrics, prove
from framegate.models.conversion.sandbox import SandboxLimits
from framegate.models.conversion.settle import Settled, Wishes, settle
from framegate.models.errors import ManifestRefused, ModelRefused
from framegate.models.formats import FORMATS
from framegate.models.formats.candidates import Size
from framegate.models.picture import Picture
from framegate.models.registry.model_folder import (
    NETWORK,
    Manifest,
    ModelFolder,
    open_folder,
    sha256_of,
)
from framegate.models.registry.registry import Registry


@dataclass(frozen=True, slots=True)
class AddRequest:
    """What to add, and as what; None: what the file says, or what is usual."""

    file: Path
    name: str
    version: str | None = None
    size: Size | None = None
    wishes: Wishes = field(default_factory=Wishes)
    thresholds: Thresholds = field(default_factory=lambda: Thresholds(0.25, 0.5, 100))
    licence: str | None = None
    provenance: str | None = None
    limits: SandboxLimits = field(default_factory=SandboxLimits)


def add(
    wanted: AddRequest, registry: Registry, pictures: Sequence[Picture], tell: Callable[[str], None]
) -> tuple[ModelFolder, Proof]:
    """The model in the registry, and what it said about `pictures`.

    tell  called with a line for each choice that was made, and why

    Raises Undecided for what only the user can say; ModelRefused, ManifestRefused.
    """
    with tempfile.TemporaryDirectory(prefix="framegate-add-") as scratch:
        work = Path(scratch, "work")
        work.mkdir()
        foreign = convert.read(wanted.file, work, wanted.size, wanted.limits)
        tell(f"read: {foreign.kind}, {_outputs_of(foreign)}")
        settled = settle(
            str(wanted.file), foreign.ports, foreign.size, foreign.metadata, wanted.wishes
        )
        for line in settled.told:
            tell(line)
        _check(wanted, settled)
        digest = sha256_of(next(work.glob(f"{convert.GIVEN}/original*")))
        outputs = convert.build(foreign, settled)
        proof = prove(foreign, settled, outputs, pictures, wanted.thresholds)
        said = _said(wanted, foreign, settled, outputs, proof, digest)
        folder = convert.assemble(foreign, Path(scratch, "folder"), said)
        return registry.put(_versioned(wanted, folder, registry)), proof


def add_folder(
    path: Path, registry: Registry, pictures: Sequence[Picture], limits: SandboxLimits | None = None
) -> tuple[ModelFolder, Proof]:
    """A folder that another machine's registry held, checked and proved anew.

    Raises ModelUnreadable when a file is not what its manifest says, ManifestRefused, ModelRefused.
    """
    folder = open_folder(path)
    network = folder.verified()
    manifest = folder.manifest
    if manifest.format not in FORMATS:
        raise ManifestRefused("format", repr(manifest.format), ", ".join(FORMATS))
    settled = Settled(manifest.format, (), manifest.options, manifest.classes, manifest.input, ())
    thresholds = Thresholds(manifest.min_score, manifest.nms_iou, manifest.max_boxes)
    size = manifest.input.width, manifest.input.height
    with tempfile.TemporaryDirectory(prefix="framegate-add-") as scratch:
        work = Path(scratch)
        for name in (NETWORK, "model.bin"):
            shutil.copyfile(path / name, work / name)
        is_int8 = manifest.precision == "int8"
        foreign = Foreign(
            network, work, "folder", (), size, (), {}, is_int8, limits or SandboxLimits()
        )
        proof = prove(foreign, settled, manifest.outputs, pictures, thresholds)
    return registry.put(folder), proof


def _check(wanted: AddRequest, settled: Settled) -> None:
    """All that a manifest refuses, before minutes of work."""
    sums = {NETWORK: "0" * 64, "model.bin": "0" * 64}
    Manifest(**_manifest(wanted, settled, ("output",), "f32", {}, "", ""), files=sums)


def _said(
    wanted: AddRequest,
    foreign: Foreign,
    settled: Settled,
    outputs: tuple[str, ...],
    proof: Proof,
    digest: str,
) -> dict[str, Any]:
    licence = wanted.licence
    if licence is None:
        licence = foreign.metadata.get("license", "")[:200]
    provenance = wanted.provenance
    if provenance is None:
        by = foreign.metadata.get("author", "")[:100]
        provenance = f"{wanted.file.name} ({foreign.kind}, sha256 {digest}){' by ' * bool(by)}{by}"
    precision = "int8" if foreign.is_quantised else "f32"
    return _manifest(wanted, settled, outputs, precision, metrics(proof), licence, provenance)


def _manifest(
    wanted: AddRequest,
    settled: Settled,
    outputs: tuple[str, ...],
    precision: str,
    measured: dict[str, Any],
    licence: str,
    provenance: str,
) -> dict[str, Any]:
    thresholds = wanted.thresholds
    return {
        "name": wanted.name,
        "version": wanted.version or "1",
        "task": "detect",
        "classes": settled.classes,
        "input": settled.input,
        "precision": precision,
        "format": settled.format,
        "options": settled.options,
        "outputs": outputs,
        "min_score": thresholds.min_score,
        "nms_iou": thresholds.nms_iou,
        "max_boxes": thresholds.max_boxes,
        "metrics": measured,
        "licence": licence,
        "provenance": provenance,
    }


def _versioned(wanted: AddRequest, folder: ModelFolder, registry: Registry) -> ModelFolder:
    """With the version that was asked for, or the next number; what is there stays what it is."""
    manifest = folder.manifest
    there = [one.manifest for one in registry.models() if one.manifest.name == manifest.name]
    same = [one for one in there if replace(one, version=manifest.version) == manifest]
    if wanted.version is None:
        numbers = [0]
        for one in there:
            with suppress(ValueError):
                numbers.append(int(one.version))
        version = same[0].version if same else str(max(numbers) + 1)
        manifest = replace(manifest, version=version)
    elif any(one.version == wanted.version and one != manifest for one in there):
        why = f"{manifest.ref} is in the registry already, with other content"
        raise ModelRefused(wanted.file, f"{why}; choose another --version, or remove that one")
    (folder.path / "manifest.json").write_text(manifest.to_json(), encoding="utf-8")
    return open_folder(folder.path)


def _outputs_of(foreign: Foreign) -> str:
    shapes = []
    for port in foreign.ports:
        axes = "..." if port.shape is None else ", ".join(str(n or "?") for n in port.shape)
        shapes.append(f"{port.name} [{axes}]")
    return f"input {foreign.size[0]}x{foreign.size[1]}, outputs {', '.join(shapes)}"
