"""The registry: the models of this machine, each in a folder that is named by its digest.

    <root>/<sha256 of the manifest>/manifest.json, model.xml, model.bin, ...
    <root>/judged/<sha256>.json    figures of the model on later footage, if it was judged there

A model never changes. It is written into a temporary folder, then renamed into place; a removed
model is renamed away first. So a reader sees a whole model or no model.
`model_folder` verifies the digests of its files.
"""

import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from framegate.models.errors import AmbiguousModel, ModelError, ModelRefused, UnknownModel
from framegate.models.registry.manifest import MANIFEST, Manifest
from framegate.models.registry.model_folder import ModelFolder, open_folder

STALE_AFTER_S: Final = 86400.0  # a temporary folder of this age belongs to a killed process
_JUDGEMENT_VERSION: Final = 1
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_DIGEST_PREFIX: Final = re.compile(r"[0-9a-f]{8,64}")


def default_root() -> Path:
    """Return `$XDG_DATA_HOME/framegate/models`, or the same below `~/.local/share`."""
    home = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return Path(home) / "framegate" / "models"


@dataclass(frozen=True, slots=True)
class BrokenModel:
    """A folder of the registry without a usable model, and the reason."""

    path: Path
    why: str


class Registry:
    """The models below `root`, which need not exist.

    Several processes may use it at once. If two add models of one name in the same moment, both may
    get the same version; `find` then needs NAME@sha8.
    """

    def __init__(self, root: Path | None = None) -> None:
        self.root = root or default_root()

    def models(self) -> list[ModelFolder]:
        """Return all readable models, the last added first."""
        return self.all_models()[0]

    def all_models(self) -> tuple[list[ModelFolder], list[BrokenModel]]:
        """Return all readable models, the last added first, and the broken ones. Hash no files."""
        dated: list[tuple[int, ModelFolder]] = []
        broken: list[BrokenModel] = []
        for path in sorted(self._folders()):
            try:
                folder = open_folder(path)
                digest = folder.manifest.sha256
                if digest != path.name:
                    raise ModelRefused(path / MANIFEST, f"its digest is {digest}")
                dated.append((path.stat().st_mtime_ns, folder))
            except FileNotFoundError:
                continue  # another process removed it meanwhile
            except ModelError as fault:
                if path.exists():
                    broken.append(BrokenModel(path, str(fault)))
        dated.sort(key=lambda pair: pair[0], reverse=True)
        return [folder for _, folder in dated], broken

    def find(self, ref: str) -> ModelFolder:
        """Return the model that `ref` names: NAME (the last added), NAME@VERSION or NAME@sha8.

        A digest may be shortened to its first 8 or more characters. Raises UnknownModel with the
        models of the registry, AmbiguousModel with the models that match.
        """
        models = self.models()
        matches = _matching(ref, models)
        if not matches:
            raise UnknownModel(ref, sorted({model.manifest.ref for model in models}))
        if len(matches) > 1:
            raise AmbiguousModel(ref, [model.manifest.result_name for model in matches])
        return matches[0]

    def put(self, folder: ModelFolder) -> ModelFolder:
        """Copy `folder` into the registry, completely or not at all, as the newest of its name.

        The same content twice is the same model. Raises ModelUnreadable if a file differs from the
        manifest, ModelRefused if the disk refuses the copy.
        """
        manifest = folder.manifest
        kept = ModelFolder(self.root / manifest.sha256, manifest)
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            if not _is_whole(kept):
                self._clear(kept.path)
                self._place(folder, kept)
            # Later than all others, even if the clock went backwards.
            times = [path.stat().st_mtime_ns for path in self._folders()]
            now = max(time.time_ns(), max(times, default=0) + 1)
            os.utime(kept.path, ns=(now, now))
            _sync(self.root)
        except OSError as fault:
            raise ModelRefused(self.root, f"cannot be written: {fault}") from fault
        return kept

    def judgement(self, manifest: Manifest) -> dict[str, Any] | None:
        """Return the figures that `keep_judgement` wrote last; None: no file, or a damaged one."""
        try:
            table = json.loads(self._judgement(manifest).read_text(encoding="utf-8"))
            version = table["v"]
            figures = table["metrics"]
        except (OSError, ValueError, TypeError, KeyError):
            return None
        if version != _JUDGEMENT_VERSION or not isinstance(figures, dict):
            return None
        return figures

    def keep_judgement(self, manifest: Manifest, metrics: Mapping[str, Any]) -> None:
        """Write the figures of a model on later footage beside it, so that its digest stays.

        Raises ModelRefused if the disk refuses them.
        """
        file = self._judgement(manifest)
        new = file.with_name(f".{file.name}.{os.getpid()}")
        table = {"v": _JUDGEMENT_VERSION, "metrics": dict(metrics)}
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            new.write_text(json.dumps(table, indent=1, allow_nan=False) + "\n", encoding="utf-8")
            _sync(new)
            new.replace(file)
        except OSError as fault:
            with suppress(OSError):
                new.unlink()
            raise ModelRefused(file, f"cannot be written: {fault}") from fault

    def _judgement(self, manifest: Manifest) -> Path:
        return self.root / "judged" / f"{manifest.sha256}.json"

    def remove(self, ref: str) -> ModelFolder:
        """Remove the model that `ref` names, and return it. Raises as `find`, and ModelRefused."""
        folder = self.find(ref)
        try:
            self._clear(folder.path)
            self._judgement(folder.manifest).unlink(missing_ok=True)
        except OSError as fault:
            raise ModelRefused(folder.path, f"cannot be removed: {fault}") from fault
        return folder

    def _place(self, folder: ModelFolder, kept: ModelFolder) -> None:
        with self._temporary() as new:
            _copy(folder, new)
            ModelFolder(new, folder.manifest).verified()
            try:
                new.rename(kept.path)
            except OSError:
                # Another process may have put the same model meanwhile.
                if not _is_whole(kept):
                    raise

    def _folders(self) -> list[Path]:
        with suppress(FileNotFoundError):
            return [path for path in self.root.iterdir() if _DIGEST.fullmatch(path.name)]
        return []

    @contextmanager
    def _temporary(self) -> Iterator[Path]:
        """Create a folder on the same disk, and delete it at the end unless it was renamed."""
        for stale in self.root.glob(".new-*"):
            with suppress(OSError):
                if time.time() - stale.stat().st_mtime > STALE_AFTER_S:
                    shutil.rmtree(stale, ignore_errors=True)
        path = Path(tempfile.mkdtemp(prefix=".new-", dir=self.root))
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)

    def _clear(self, path: Path) -> None:
        if path.exists():
            with self._temporary() as gone:
                path.rename(gone / path.name)


def _matching(ref: str, models: Sequence[ModelFolder]) -> list[ModelFolder]:
    name, _, rest = ref.partition("@")
    namesakes = [model for model in models if model.manifest.name == name]
    if not rest:
        return namesakes[:1]
    exact = [model for model in namesakes if model.manifest.version == rest]
    if exact:
        return exact
    if not _DIGEST_PREFIX.fullmatch(rest):
        return []
    return [model for model in namesakes if model.manifest.sha256.startswith(rest)]


def _is_whole(folder: ModelFolder) -> bool:
    try:
        folder.verified()
        return open_folder(folder.path).manifest == folder.manifest
    except ModelError:
        return False


def _copy(folder: ModelFolder, new: Path) -> None:
    """Copy the listed files, and sync them: after a power cut no renamed folder is incomplete."""
    folder.verified()
    for name in folder.manifest.files:
        shutil.copyfile(folder.path / name, new / name)
    (new / MANIFEST).write_text(folder.manifest.to_json(), encoding="utf-8")
    for path in (*new.iterdir(), new):
        _sync(path)
    new.chmod(0o755)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
