"""The models of this machine: a folder that holds each model folder under its digest.

    <root>/<sha256 of the manifest>/manifest.json, model.xml, model.bin, ...
    <root>/judged/<the same>.json    what footage later than the model's own said of it, if it did

No model in it is ever changed: one is written beside, then renamed into place, and a removed one
is renamed away first, so a reader sees a whole model or none.
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
from framegate.models.registry.model_folder import MANIFEST, Manifest, ModelFolder, open_folder

LEFT_S = 86400.0
_JUDGEMENT_VERSION: Final = 1
_DIGEST = re.compile(r"[0-9a-f]{64}")
_PART = re.compile(r"[0-9a-f]{8,64}")


def default_root() -> Path:
    """`$XDG_DATA_HOME/framegate/models`, or the same below `~/.local/share`."""
    home = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return Path(home) / "framegate" / "models"


@dataclass(frozen=True, slots=True)
class BrokenModel:
    """A folder of the registry that holds no model that can be used, and why."""

    path: Path
    why: str


class Registry:
    """The models below `root`, which need not exist yet. Safe for several processes at once."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = root or default_root()

    def models(self) -> list[ModelFolder]:
        """All that can be read, the one added last first."""
        return self.all_models()[0]

    def all_models(self) -> tuple[list[ModelFolder], list[BrokenModel]]:
        """Models, the one added last first, and what is broken. Files are not hashed."""
        found: list[tuple[int, ModelFolder]] = []
        broken: list[BrokenModel] = []
        for path in sorted(self._folders()):
            try:
                folder = open_folder(path)
                if folder.manifest.sha256 != path.name:
                    raise ModelRefused(path / MANIFEST, f"its digest is {folder.manifest.sha256}")
                found.append((path.stat().st_mtime_ns, folder))
            except FileNotFoundError:
                continue  # removed meanwhile
            except ModelError as fault:
                if path.exists():
                    broken.append(BrokenModel(path, str(fault)))
        found.sort(key=lambda one: one[0], reverse=True)
        return [folder for _, folder in found], broken

    def find(self, ref: str) -> ModelFolder:
        """The model that `ref` names: NAME (the one added last), NAME@VERSION or NAME@sha8.

        A digest may be given by its first 8 characters or more. Raises UnknownModel with what
        there is, AmbiguousModel with what is meant.
        """
        models = self.models()
        meant = _meant(ref, models)
        if not meant:
            raise UnknownModel(ref, sorted({model.manifest.ref for model in models}))
        if len(meant) > 1:
            raise AmbiguousModel(ref, [model.manifest.result_name for model in meant])
        return meant[0]

    def put(self, folder: ModelFolder) -> ModelFolder:
        """A copy of `folder` in the registry, whole or not at all, and the newest of its name.

        The same content twice is one model. Raises ModelUnreadable when a file of it is not what
        the manifest says, ModelRefused when the disk does not take it.
        """
        manifest = folder.manifest
        kept = ModelFolder(self.root / manifest.sha256, manifest)
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            if not _is_whole(kept):
                self._clear(kept.path)
                self._place(folder, kept)
            _touch(kept.path, self._newest() + 1)
            _sync(self.root)
        except OSError as fault:
            raise ModelRefused(self.root, f"cannot be written: {fault}") from fault
        return kept

    def judgement(self, manifest: Manifest) -> dict[str, Any] | None:
        """The last that was kept of a model with `keep_judgement`; None: there is none."""
        try:
            said = json.loads(self._judgement(manifest).read_text(encoding="utf-8"))
            wrote, figures = said["v"], said["metrics"]
        except (OSError, ValueError, TypeError, KeyError):
            return None  # a damaged one judges nothing
        return dict(figures) if wrote == _JUDGEMENT_VERSION and isinstance(figures, dict) else None

    def keep_judgement(self, manifest: Manifest, metrics: Mapping[str, Any]) -> None:
        """Keeps what later footage said of a model, beside it: its digest stays what it is.

        Raises ModelRefused when the disk does not take it.
        """
        file = self._judgement(manifest)
        said = {"v": _JUDGEMENT_VERSION, "metrics": dict(metrics)}
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            new = file.with_name(f".{file.name}.{os.getpid()}")
            new.write_text(json.dumps(said, indent=1, allow_nan=False) + "\n", encoding="utf-8")
            _sync(new)
            new.replace(file)
        except OSError as fault:
            raise ModelRefused(file, f"cannot be written: {fault}") from fault

    def _judgement(self, manifest: Manifest) -> Path:
        return self.root / "judged" / f"{manifest.sha256}.json"

    def remove(self, ref: str) -> ModelFolder:
        """Takes out the model that `ref` names; it is gone at once. Raises as `find`."""
        folder = self.find(ref)
        try:
            self._clear(folder.path)
            self._judgement(folder.manifest).unlink(missing_ok=True)
        except OSError as fault:
            raise ModelRefused(folder.path, f"cannot be removed: {fault}") from fault
        return folder

    def _place(self, folder: ModelFolder, kept: ModelFolder) -> None:
        with self._beside() as new:
            _copy(folder, new)
            ModelFolder(new, folder.manifest).verified()
            try:
                new.rename(kept.path)
            except OSError:
                if not _is_whole(kept):  # else another process put the same
                    raise

    def _folders(self) -> list[Path]:
        with suppress(FileNotFoundError):
            return [path for path in self.root.iterdir() if _DIGEST.fullmatch(path.name)]
        return []

    def _newest(self) -> int:
        times = [path.stat().st_mtime_ns for path in self._folders()]
        return max(times, default=0)

    @contextmanager
    def _beside(self) -> Iterator[Path]:
        """A new folder on the same disk, gone at the end unless it was renamed."""
        for left in self.root.glob(".new-*"):  # by who was killed
            with suppress(OSError):
                if time.time() - left.stat().st_mtime > LEFT_S:
                    shutil.rmtree(left, ignore_errors=True)
        path = Path(tempfile.mkdtemp(prefix=".new-", dir=self.root))
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)

    def _clear(self, path: Path) -> None:
        if path.exists():
            with self._beside() as gone:
                path.rename(gone / path.name)


def _meant(ref: str, models: Sequence[ModelFolder]) -> list[ModelFolder]:
    name, _, rest = ref.partition("@")
    same = [model for model in models if model.manifest.name == name]
    if not rest:
        return same[:1]
    if exact := [model for model in same if model.manifest.version == rest]:
        return exact
    if not _PART.fullmatch(rest):
        return []
    return [model for model in same if model.manifest.sha256.startswith(rest)]


def _is_whole(folder: ModelFolder) -> bool:
    try:
        folder.verified()
        return open_folder(folder.path).manifest == folder.manifest
    except ModelError:
        return False


def _copy(folder: ModelFolder, new: Path) -> None:
    """Only what the manifest lists; on disk before it is renamed, so a power cut leaves no half."""
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


def _touch(path: Path, least: int) -> None:
    """Marks it as added now; later than all others even where the clock stands still."""
    now = max(time.time_ns(), least)
    os.utime(path, ns=(now, now))
