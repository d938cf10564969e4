"""A model from a foreign file, or from a finished folder, into the registry: all steps in order."""

import shutil
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from framegate.models.conversion import convert
from framegate.models.conversion.convert import Foreign
from framegate.models.conversion.proof import Proof, Thresholds, metrics, prove
from framegate.models.conversion.sandbox import SandboxLimits
from framegate.models.conversion.settle import ImportPlan, Wishes, settle
from framegate.models.errors import ManifestRefused, ModelRefused
from framegate.models.formats.decoding import Size
from framegate.models.formats.table import FORMATS
from framegate.models.picture import Picture
from framegate.models.registry.model_folder import (
    MANIFEST,
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
    request: AddRequest,
    registry: Registry,
    pictures: Sequence[Picture],
    tell: Callable[[str], None],
    begin: Callable[[str], None] = lambda _: None,
) -> tuple[ModelFolder, Proof]:
    """Put the model into the registry; give its folder there, and its answers on `pictures`.

    tell   called with a line for each choice that was made, and why
    begin  called with what takes long, as it begins

    Raises Undecided for what only the user can say; ModelRefused, ManifestRefused.
    """
    with tempfile.TemporaryDirectory(prefix="framegate-add-") as scratch:
        work = Path(scratch, "work")
        work.mkdir()
        begin("reading the model")
        foreign = convert.read(request.file, work, request.size, request.limits)
        outputs = ", ".join(str(port) for port in foreign.ports)
        size = f"{foreign.size[0]}x{foreign.size[1]}"
        tell(f"read: {foreign.kind}, input {size}, outputs {outputs}")
        settled = settle(
            str(request.file), foreign.ports, foreign.size, foreign.metadata, request.wishes
        )
        for line in settled.told:
            tell(line)
        draft = _draft(request, foreign, settled)
        begin("converting the model")
        names = convert.build(foreign, settled)
        begin("looking at pictures with the model")
        proof = prove(foreign, settled, names, pictures, request.thresholds)
        manifest = replace(draft, outputs=names, metrics=metrics(proof))
        folder = convert.assemble(foreign, Path(scratch, "folder"), manifest)
        return registry.put(_versioned(request, folder, registry)), proof


def add_folder(
    path: Path, registry: Registry, pictures: Sequence[Picture]
) -> tuple[ModelFolder, Proof]:
    """Put a folder of another machine's registry into this one, checked and proved anew.

    Raises ModelUnreadable when a file is not what its manifest says, ManifestRefused, ModelRefused.
    """
    folder = open_folder(path)
    network = folder.verified()
    manifest = folder.manifest
    if manifest.format not in FORMATS:
        raise ManifestRefused("format", repr(manifest.format), ", ".join(FORMATS))
    settled = ImportPlan(
        manifest.format, (), manifest.options, manifest.classes, manifest.input, ()
    )
    thresholds = Thresholds(manifest.min_score, manifest.nms_iou, manifest.max_boxes)
    size = manifest.input.width, manifest.input.height
    with tempfile.TemporaryDirectory(prefix="framegate-add-") as scratch:
        work = Path(scratch)
        for name in (NETWORK, "model.bin"):
            shutil.copyfile(path / name, work / name)
        is_int8 = manifest.precision == "int8"
        foreign = Foreign(network, work, "folder", (), size, (), {}, is_int8, SandboxLimits())
        proof = prove(foreign, settled, manifest.outputs, pictures, thresholds)
    return registry.put(folder), proof


def _draft(request: AddRequest, foreign: Foreign, settled: ImportPlan) -> Manifest:
    """All of the manifest that is known before minutes of work, so that a fault is told first."""
    licence, provenance = request.licence, request.provenance
    if licence is None:
        licence = foreign.metadata.get("license", "")[:200]
    if provenance is None:
        digest = sha256_of(next(foreign.work.glob(f"{convert.GIVEN}/original*")))
        author = foreign.metadata.get("author", "")[:100]
        provenance = f"{request.file.name} ({foreign.kind}, sha256 {digest})"
        provenance += f" by {author}" if author else ""
    return Manifest(
        name=request.name,
        version=request.version or "1",
        task="detect",
        classes=settled.classes,
        input=settled.input,
        precision="int8" if foreign.is_quantised else "f32",
        format=settled.format,
        options=settled.options,
        outputs=("output",),
        min_score=request.thresholds.min_score,
        nms_iou=request.thresholds.nms_iou,
        max_boxes=request.thresholds.max_boxes,
        files={NETWORK: "0" * 64, "model.bin": "0" * 64},
        metrics={},
        licence=licence,
        provenance=provenance,
    )


def _versioned(request: AddRequest, folder: ModelFolder, registry: Registry) -> ModelFolder:
    """Give it the version that was asked for, or the next number; the same model keeps its own."""
    manifest = folder.manifest
    others = [m.manifest for m in registry.models() if m.manifest.name == manifest.name]
    if request.version is None:
        same = [other for other in others if replace(other, version=manifest.version) == manifest]
        numbers = [0]
        for other in others:
            with suppress(ValueError):
                numbers.append(int(other.version))
        version = same[0].version if same else str(max(numbers) + 1)
        manifest = replace(manifest, version=version)
    elif any(other.version == request.version and other != manifest for other in others):
        why = f"{manifest.ref} is in the registry already, with other content"
        raise ModelRefused(request.file, f"{why}; choose another --version, or remove that one")
    (folder.path / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    return open_folder(folder.path)
