"""The committed weight files: which there are, and proof that a file is the one meant."""

import hashlib
import tomllib
from dataclasses import dataclass
from pathlib import Path

from framegate.models.errors import ModelUnreadable
from framegate.models.weights import FOLDER

WEIGHTS = FOLDER


@dataclass(frozen=True, slots=True)
class WeightFile:
    """One line of `weights/manifest.toml`."""

    file: str
    sha256: str
    bytes: int
    origin: str
    licence: str
    script: str


def read(folder: Path = WEIGHTS) -> dict[str, WeightFile]:
    """Every listed file by its name. Raises ModelUnreadable when the list cannot be read."""
    path = folder / "manifest.toml"
    try:
        rows = tomllib.loads(path.read_text())["files"]
        listed = [WeightFile(**row) for row in rows]
    except (OSError, tomllib.TOMLDecodeError, KeyError, TypeError) as fault:
        raise ModelUnreadable(path, "a list of weight files", repr(fault)) from fault
    return {entry.file: entry for entry in listed}


def verified(name: str, folder: Path = WEIGHTS) -> tuple[Path, str]:
    """Path and sha256 of the OpenVINO model `name` (both its files), after reading every byte.

    The sha256 is that of the two listed sums one after the other, so it names topology and numbers.
    Raises ModelUnreadable with the path, the sum expected and the sum found.
    """
    listed = read(folder)
    sums = [_checked(folder / f"{name}.{kind}", listed) for kind in ("xml", "bin")]
    return folder / f"{name}.xml", hashlib.sha256("".join(sums).encode()).hexdigest()


def _checked(path: Path, listed: dict[str, WeightFile]) -> str:
    if path.name not in listed:
        raise ModelUnreadable(path, "a line in manifest.toml", "none")
    expected = listed[path.name].sha256
    try:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as fault:
        raise ModelUnreadable(path, f"sha256 {expected}", fault.strerror or repr(fault)) from fault
    if found != expected:
        raise ModelUnreadable(path, f"sha256 {expected}", found)
    return found
