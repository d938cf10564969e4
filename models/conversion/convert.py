"""Conversion of a foreign model file into a model folder, step by step, in the sandbox."""

import shutil
import stat
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from framegate.models.conversion.guess import Port
from framegate.models.conversion.sandbox import SandboxLimits, ask
from framegate.models.conversion.settle import ImportPlan
from framegate.models.errors import ModelRefused, Undecided
from framegate.models.formats.shared_decoding import Size
from framegate.models.formats.table import FORMATS
from framegate.models.registry.manifest import MANIFEST, NETWORK, WEIGHTS, Manifest
from framegate.models.registry.model_folder import ModelFolder, open_folder, sha256_of

GIVEN = "given"  # folder of the copies of the user's files
_MAX_FILE_BYTES = 4 << 30


@dataclass(frozen=True, slots=True)
class Foreign:
    """A foreign file that was read; the work folder contains its network.

    file      path of the user's file
    kept      names of the copies that the model folder will contain
    size      (width, height) of the input
    metadata  of the exporter
    """

    file: Path
    work: Path
    kind: str
    kept: tuple[str, ...]
    size: Size
    ports: tuple[Port, ...]
    metadata: dict[str, str]
    is_quantised: bool
    limits: SandboxLimits


def read(
    file: Path, work: Path, size: Size | None = None, limits: SandboxLimits | None = None
) -> Foreign:
    """Copy `file` into the empty folder `work`, so that it cannot change meanwhile, and read it.

    size  (width, height) of the input, if the file leaves it open

    Raises ModelRefused with the reason, Undecided if the size is unknown.
    """
    limits = limits or SandboxLimits()
    given = work / GIVEN
    given.mkdir()
    copy = _copied(file, given / f"original{_suffix(file)}")
    found = ask("kind", {"file": str(copy)}, work, file, limits)
    kind = found["kind"]
    kept: list[str] = []
    if kind == "onnx":
        kept = [copy.name, *found["needs"]]
    for name in found["needs"]:
        beside = file.parent / str(name)
        if kind == "ir":
            # OpenVINO expects the weights of an IR under the name of the copy.
            beside = file.with_suffix(".bin")
        if beside.is_symlink():
            raise ModelRefused(beside, "a link, which may lead anywhere; allowed is a file")
        _copied(beside, given / str(name))
    arguments = {"file": str(copy), "kind": kind, "size": size}
    network = ask("read", arguments, work, file, limits)
    if network["size"] is None:
        answers = ["WIDTHxHEIGHT in pixels, as the network was trained"]
        raise Undecided(f"{file} leaves the size of its input open", answers, "--size")
    return Foreign(
        file,
        work,
        kind,
        tuple(kept),
        (int(network["size"][0]), int(network["size"][1])),
        tuple(_port(output) for output in network["outputs"]),
        {str(key): str(value) for key, value in network["metadata"].items()},
        bool(network["is_quantised"]),
        limits,
    )


def build(foreign: Foreign, plan: ImportPlan) -> tuple[str, ...]:
    """Write the network file of the model folder into the work folder, and return the names of its
    outputs.

    Raises ModelRefused.
    """
    names = [foreign.ports[index].name for index in plan.ports]
    if len(set(names)) < len(names):
        names = [f"output{index}" for index in plan.ports]
    ranks = FORMATS[plan.format].ranks
    outputs = [
        {"index": index, "name": name, "rank": rank}
        for index, name, rank in zip(plan.ports, names, ranks, strict=True)
    ]
    spec = plan.input
    arguments: dict[str, Any] = {
        "outputs": outputs,
        "colour": spec.colour,
        "scale": spec.scale,
        "mean": spec.mean,
        "std": spec.std,
        "file": NETWORK,
    }
    ask("build", arguments, foreign.work, foreign.file, foreign.limits)
    return tuple(names)


def assemble(foreign: Foreign, path: Path, manifest: Manifest) -> ModelFolder:
    """Move the files into a new model folder at `path`, and write the manifest with their digests.

    Raises ManifestRefused.
    """
    path.mkdir()
    for name in (NETWORK, WEIGHTS):
        shutil.move(foreign.work / name, path / name)
    for name in foreign.kept:
        shutil.move(foreign.work / GIVEN / name, path / name)
    names = (NETWORK, WEIGHTS, *foreign.kept)
    manifest = replace(manifest, files={name: sha256_of(path / name) for name in names})
    (path / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    return open_folder(path)


def _copied(file: Path, copy: Path) -> Path:
    try:
        status = file.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ModelRefused(file, "no regular file")
        if status.st_size > _MAX_FILE_BYTES:
            why = f"{status.st_size} bytes; at most {_MAX_FILE_BYTES} are allowed"
            raise ModelRefused(file, why)
        return Path(shutil.copyfile(file, copy))
    except OSError as fault:
        raise ModelRefused(file, fault.strerror or repr(fault)) from fault


def _suffix(file: Path) -> str:
    """Return the suffix in lower case, without characters that a manifest refuses."""
    kept = "".join(c for c in file.suffix.lower() if c.isascii() and c.isalnum())[:16]
    if not kept:
        return ""
    return f".{kept}"


def _port(output: dict[str, Any]) -> Port:
    shape = output["shape"]
    if shape is not None:
        shape = tuple(shape)
    is_integer = str(output["type"]).startswith(("i", "u"))
    return Port(output["name"], shape, is_integer)
