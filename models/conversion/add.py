"""Add a model to the registry, from a foreign file or from a model folder.

`settle` decides the format of a foreign file, or refuses it.
"""

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
from framegate.models.formats.shared_decoding import Size
from framegate.models.formats.table import FORMATS
from framegate.models.picture import Picture
from framegate.models.registry.manifest import MANIFEST, NETWORK, WEIGHTS, FilePrecision, Manifest
from framegate.models.registry.model_folder import ModelFolder, open_folder, sha256_of
from framegate.models.registry.registry import Registry


@dataclass(frozen=True, slots=True)
class AddRequest:
    """A model file to add, with the user's choices; None: from the file, or the default."""

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
    """Convert the file, test it on `pictures`, and put it into the registry.

    tell   called with a line for each decision and its reason
    begin  called with the name of each long step before it starts

    Raises Undecided for a question that only the user can answer; ModelRefused, ManifestRefused.
    """
    with tempfile.TemporaryDirectory(prefix="framegate-add-") as scratch:
        work = Path(scratch, "work")
        work.mkdir()
        begin("reading the model")
        foreign = convert.read(request.file, work, request.size, request.limits)
        outputs = ", ".join(str(port) for port in foreign.ports)
        size = f"{foreign.size[0]}x{foreign.size[1]}"
        tell(f"read: {foreign.kind}, input {size}, outputs {outputs}")
        plan = settle(
            str(request.file), foreign.ports, foreign.size, foreign.metadata, request.wishes
        )
        for line in plan.reasons:
            tell(line)
        # The conversion takes minutes. The draft checks all other values of the manifest before.
        draft = _draft(request, foreign, plan)
        begin("converting the model")
        names = convert.build(foreign, plan)
        begin("looking at pictures with the model")
        proof = prove(foreign, plan, names, pictures, request.thresholds)
        manifest = replace(draft, outputs=names, metrics=metrics(proof))
        folder = convert.assemble(foreign, Path(scratch, "folder"), manifest)
        return registry.put(_versioned(request, folder, registry)), proof


def add_folder(
    path: Path, registry: Registry, pictures: Sequence[Picture]
) -> tuple[ModelFolder, Proof]:
    """Check a model folder of another machine, test it on `pictures`, and put it into the registry.

    Raises ModelUnreadable if a file differs from the manifest; ManifestRefused, ModelRefused.
    """
    folder = open_folder(path)
    network = folder.verified()
    manifest = folder.manifest
    if manifest.format not in FORMATS:
        raise ManifestRefused("format", repr(manifest.format), ", ".join(FORMATS))
    plan = ImportPlan(manifest.format, (), manifest.options, manifest.classes, manifest.input, ())
    thresholds = Thresholds(manifest.min_score, manifest.nms_iou, manifest.max_boxes)
    size = manifest.input.width, manifest.input.height
    with tempfile.TemporaryDirectory(prefix="framegate-add-") as scratch:
        work = Path(scratch)
        for name in (NETWORK, WEIGHTS):
            shutil.copyfile(path / name, work / name)
        is_int8 = manifest.precision == "int8"
        foreign = Foreign(network, work, "folder", (), size, (), {}, is_int8, SandboxLimits())
        proof = prove(foreign, plan, manifest.outputs, pictures, thresholds)
    return registry.put(folder), proof


def _draft(request: AddRequest, foreign: Foreign, plan: ImportPlan) -> Manifest:
    """Return the manifest with placeholders for outputs, files and metrics."""
    licence = request.licence
    if licence is None:
        licence = foreign.metadata.get("license", "")[:200]
    provenance = request.provenance
    if provenance is None:
        digest = sha256_of(next(foreign.work.glob(f"{convert.GIVEN}/original*")))
        author = foreign.metadata.get("author", "")[:100]
        provenance = f"{request.file.name} ({foreign.kind}, sha256 {digest})"
        if author:
            provenance += f" by {author}"
    precision: FilePrecision = "f32"
    if foreign.is_quantised:
        precision = "int8"
    return Manifest(
        name=request.name,
        version=request.version or "1",
        task="detect",
        classes=plan.classes,
        input=plan.input,
        precision=precision,
        format=plan.format,
        options=plan.options,
        outputs=("output",),
        min_score=request.thresholds.min_score,
        nms_iou=request.thresholds.nms_iou,
        max_boxes=request.thresholds.max_boxes,
        files={NETWORK: "0" * 64, WEIGHTS: "0" * 64},
        metrics={},
        licence=licence,
        provenance=provenance,
    )


def _versioned(request: AddRequest, folder: ModelFolder, registry: Registry) -> ModelFolder:
    """Set the requested version, or the next number. The same model keeps its version."""
    manifest = folder.manifest
    models = [model.manifest for model in registry.models()]
    others = [other for other in models if other.name == manifest.name]
    if request.version is None:
        numbers = [0]
        for other in others:
            with suppress(ValueError):
                numbers.append(int(other.version))
        version = str(max(numbers) + 1)
        for other in others:
            if replace(other, version=manifest.version) == manifest:
                version = other.version
                break
        manifest = replace(manifest, version=version)
    elif any(other.version == request.version and other != manifest for other in others):
        why = f"{manifest.ref} is in the registry already, with other content"
        raise ModelRefused(request.file, f"{why}; choose another --version, or remove that one")
    (folder.path / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    return open_folder(folder.path)
