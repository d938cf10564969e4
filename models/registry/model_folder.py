"""A model as a folder: a manifest that describes the model, and the files that the manifest lists.

manifest.json   the fields of `Manifest`, in module `manifest`
model.xml/.bin  OpenVINO IR. One input, uint8 (1, H, W, 3) in the order B, G, R, with all
                pre-processing inside; named float32 outputs, each with a batch axis. H and W may be
                open: the network then takes any multiples of 32, and parts of pictures
int8.xml/.bin   optional, beside a float `model.xml`: the same network in 8 bits. Each machine
                serves the faster of the two
others          files that the manifest lists, such as the ONNX file that was converted
"""

from __future__ import annotations

import hashlib
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from framegate.models.errors import ModelUnreadable
from framegate.models.registry.manifest import MANIFEST, NETWORK, Manifest

_MAX_MANIFEST_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A model on disk: a folder, and its manifest as it was read."""

    path: Path
    manifest: Manifest

    def verified(self) -> Path:
        """Hash every listed file, and return the path of the network file.

        Raises ModelUnreadable with the file, the expected digest and the actual one.
        """
        for name, expected in self.manifest.files.items():
            actual = _digest(self.path / name, expected)
            if actual != expected:
                raise ModelUnreadable(self.path / name, f"sha256 {expected}", actual)
        return self.path / NETWORK

    @property
    def n_bytes(self) -> int:
        """Total size of the listed files."""
        return sum((self.path / name).stat().st_size for name in self.manifest.files)


def open_folder(path: Path) -> ModelFolder:
    """Open the model at `path`. Check its manifest, but do not hash its files.

    Raises ModelUnreadable if the manifest is missing or unreadable, ManifestRefused if it is wrong.
    """
    file = path / MANIFEST
    try:
        n_bytes = file.stat().st_size
        if n_bytes > _MAX_MANIFEST_BYTES:
            raise ModelUnreadable(file, f"at most {_MAX_MANIFEST_BYTES} bytes", f"{n_bytes} bytes")
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as fault:
        raise ModelUnreadable(file, "a manifest", str(fault)) from fault
    return ModelFolder(path, Manifest.from_json(text))


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes in hexadecimal digits. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(path: Path, expected: str) -> str:
    try:
        # A link may lead out of the folder.
        if not stat.S_ISREG(path.lstat().st_mode):
            raise ModelUnreadable(path, f"sha256 {expected}", "no regular file")
        return sha256_of(path)
    except OSError as fault:
        raise ModelUnreadable(path, f"sha256 {expected}", fault.strerror or repr(fault)) from fault
