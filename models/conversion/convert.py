"""A foreign model file as a model folder, step by step; what opens the file runs in the sandbox."""

import shutil
import stat
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from framegate.models.conversion.guess import Port
from framegate.models.conversion.sandbox import SandboxLimits, ask
from framegate.models.conversion.settle import ImportPlan
from framegate.models.errors import ModelRefused, Undecided
from framegate.models.formats.decoding import Size
from framegate.models.formats.table import FORMATS
from framegate.models.registry.model_folder import (
    MANIFEST,
    NETWORK,
    Manifest,
    ModelFolder,
    open_folder,
    sha256_of,
)

GIVEN = "given"  # where copies of the user's files lie, apart from what is made of them
_MOST_FILE_BYTES = 4 << 30


@dataclass(frozen=True, slots=True)
class Foreign:
    """A file that was read: its network lies in the folder where it was worked on.

    file      the user's
    kept      names of copies that go into the model folder
    size      (width, height) of the input
    metadata  what its exporter wrote beside it
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
    """Read `file` in the empty folder `work`, from copies, so that none can change meanwhile.

    size  (width, height) of the input, where the file leaves it open

    Raises ModelRefused with the reason, Undecided for a size that is not known.
    """
    limits = limits or SandboxLimits()
    given = work / GIVEN
    given.mkdir()
    copy = _copied(file, given / f"original{_suffix(file)}")
    found = ask("kind", {"file": str(copy)}, work, file, limits)
    kind = found["kind"]
    kept = [copy.name]
    for name in found["needs"]:
        # OpenVINO looks for the weights of an IR under its own name.
        is_bin = kind == "ir"
        beside = file.with_suffix(".bin") if is_bin else file.parent / str(name)
        if beside.is_symlink():
            raise ModelRefused(beside, "a link, which may lead anywhere; allowed is a file")
        kept.append(_copied(beside, given / str(name)).name)
    arguments = {"file": str(copy), "kind": kind, "size": size}
    found = ask("read", arguments, work, file, limits)
    if found["size"] is None:
        answers = ["WIDTHxHEIGHT in pixels, as the network was trained"]
        raise Undecided(f"{file} leaves the size of its input open", answers, "--size")
    return Foreign(
        file,
        work,
        kind,
        tuple(kept) if kind == "onnx" else (),
        (int(found["size"][0]), int(found["size"][1])),
        tuple(_port(one) for one in found["outputs"]),
        {str(key): str(value) for key, value in found["metadata"].items()},
        bool(found["is_quantised"]),
        limits,
    )


def build(foreign: Foreign, settled: ImportPlan) -> tuple[str, ...]:
    """Write the network file of the model folder into the work folder; give its outputs' names.

    Raises ModelRefused.
    """
    names = [foreign.ports[i].name for i in settled.ports]
    if len(set(names)) < len(names):
        names = [f"output{i}" for i in settled.ports]
    ranks = FORMATS[settled.format].ranks
    outputs = [
        {"index": i, "name": name, "rank": rank}
        for i, name, rank in zip(settled.ports, names, ranks, strict=True)
    ]
    spec = settled.input
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
    """Put the model folder together at `path`, a new folder.

    manifest  but for `files`, which are what lies there then

    Raises ManifestRefused.
    """
    path.mkdir()
    names = (NETWORK, "model.bin", *foreign.kept)
    for name in names:
        shutil.move(foreign.work / (GIVEN if name in foreign.kept else "") / name, path / name)
    whole = replace(manifest, files={name: sha256_of(path / name) for name in names})
    (path / MANIFEST).write_text(whole.to_json(), encoding="utf-8")
    return open_folder(path)


def _copied(file: Path, copy: Path) -> Path:
    try:
        found = file.stat()
        if not stat.S_ISREG(found.st_mode):
            raise ModelRefused(file, "no regular file")
        if found.st_size > _MOST_FILE_BYTES:
            why = f"{found.st_size} bytes; allowed are {_MOST_FILE_BYTES}"
            raise ModelRefused(file, why)
        return Path(shutil.copyfile(file, copy))
    except OSError as fault:
        raise ModelRefused(file, fault.strerror or repr(fault)) from fault


def _suffix(file: Path) -> str:
    """`.onnx` and so on, in a form that a manifest may list."""
    kept = "".join(c for c in file.suffix.lower() if c.isascii() and c.isalnum())[:16]
    return f".{kept}" if kept else ""


def _port(output: dict[str, Any]) -> Port:
    shape = output["shape"]
    is_integer = str(output["type"]).startswith(("i", "u"))
    return Port(output["name"], None if shape is None else tuple(shape), is_integer)
