"""Errors of `models`. Each class is one kind of fault and has the details as attributes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


class ModelError(Exception):
    """Base class of all errors that this package raises on purpose."""


class ArrayMismatch(ModelError, ValueError):
    """An array with a wrong type, dtype, shape or value."""

    def __init__(self, name: str, expected: str, actual: str) -> None:
        super().__init__(f"{name}: expected {expected}, found {actual}")
        self.name = name
        self.expected = expected
        self.actual = actual


class ModelUnreadable(ModelError):
    """A model file that is missing, differs from its manifest, or has an unknown format."""

    def __init__(self, path: Path, expected: str, actual: str) -> None:
        super().__init__(f"{path}: expected {expected}, found {actual}")
        self.path = path
        self.expected = expected
        self.actual = actual


class PictureUnreadable(ModelError):
    """An image file that OpenCV cannot read."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path}: not an image file that OpenCV can read")
        self.path = path


class PictureDamaged(ModelError, ValueError):
    """Bytes that cannot be decoded as a picture."""

    def __init__(self, n_bytes: int) -> None:
        super().__init__(f"{n_bytes} bytes cannot be decoded as a picture")
        self.n_bytes = n_bytes


class PrecisionUnsupported(ModelError, ValueError):
    """A precision that this program or this CPU does not support."""

    def __init__(self, precision: str, supported: tuple[str, ...]) -> None:
        super().__init__(f"precision {precision!r}: this CPU supports {', '.join(supported)}")
        self.precision = precision
        self.supported = supported


class DeviceMissing(ModelError, ValueError):
    """A device that this machine does not have, or that this model cannot use."""

    def __init__(self, device: str, available: tuple[str, ...], reason: str = "") -> None:
        because = ""
        if reason:
            because = f" ({reason})"
        super().__init__(
            f"device {device!r}: not on this machine{because}; allowed here are "
            f"{', '.join((*available, 'AUTO'))}"
        )
        self.device = device
        self.available = available
        self.reason = reason


class DeviceRefused(ModelError):
    """A device that cannot compute a network, or whose outputs differ from those of the CPU."""

    def __init__(self, device: str, reason: str) -> None:
        super().__init__(f"device {device!r}: {reason}; use CPU, or AUTO, which skips this device")
        self.device = device
        self.reason = reason


class UnknownDetector(ModelError, ValueError):
    """A detector name without a policy."""

    def __init__(self, name: str, known: tuple[str, ...]) -> None:
        super().__init__(f"detector {name!r} is unknown; allowed are {', '.join(known)}")
        self.name = name
        self.known = known


class UnknownClass(ModelError, ValueError):
    """Class names that are not among the labels of a model."""

    def __init__(
        self, names: tuple[str, ...], model: str = "COCO", labels: Sequence[str] = ()
    ) -> None:
        message = f"not among the 80 {model} classes: {', '.join(names)}"
        if labels:
            some = [*labels[:12], "..."][: len(labels)]
            message = (
                f"not among the {len(labels)} classes of {model}: {', '.join(names)}; "
                f"it has {', '.join(some)}"
            )
        super().__init__(message)
        self.names = names
        self.model = model
        self.labels = tuple(labels)


class WarmUpFailed(ModelError):
    """A network whose first inference failed, so the detector must not start."""

    def __init__(self, model: str, shape: tuple[int, ...], reason: str) -> None:
        super().__init__(f"{model} failed its warm-up at {shape}: {reason}")
        self.model = model
        self.shape = shape
        self.reason = reason


class OutputsNotFinite(ModelError):
    """Outputs of a network that contain NaN or infinity."""

    def __init__(self, model: str, shape: tuple[int, ...]) -> None:
        super().__init__(f"{model}: outputs for an input of {shape} are not finite")
        self.model = model
        self.shape = shape


class TooManyInFlight(ModelError):
    """A submitted picture beyond the limit of pictures whose answers were not read."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"{limit} pictures are in flight; read an answer first")
        self.limit = limit


class WholePicturesOnly(ModelError, ValueError):
    """A part of a picture for a detector with several input sizes."""

    def __init__(self, models: tuple[str, ...]) -> None:
        super().__init__(f"{', '.join(models)} take whole pictures, each at its own size")
        self.models = models


class NotInstalled(ModelError):
    """A package that only an extra of the installation contains."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{package} is not installed, which is needed {purpose}: "
            f"in Framegate's checkout, pip install '.[{extra}]' (or make extras)"
        )
        self.package = package
        self.extra = extra


class TooFewFrames(ModelError):
    """Footage that is too short for training and evaluation."""

    def __init__(self, frames: int, least: int) -> None:
        super().__init__(f"at least {least} frames are needed, got {frames}")
        self.frames = frames
        self.least = least


class TrainingRefused(ModelError):
    """A training that cannot start or continue. The message names the cause and the remedy."""


class NotQuantised(ModelError):
    """A network that NNCF cannot quantise."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"NNCF cannot quantise this network: {reason}")
        self.reason = reason


# -- Errors of model files and of the registry.


class ManifestRefused(ModelError, ValueError):
    """A manifest with an invalid value."""

    def __init__(self, key: str, value: str, allowed: str) -> None:
        super().__init__(f"manifest: {key} = {value}: allowed is {allowed}")
        self.key = key
        self.value = value
        self.allowed = allowed


class ModelRefused(ModelError):
    """A model file that is not accepted. The message names the cause and the remedy."""

    def __init__(self, file: Path | str, reason: str) -> None:
        super().__init__(f"{file}: refused: {reason}")
        self.file = str(file)
        self.reason = reason


class Undecided(ModelError):
    """A property of a model that its file does not contain. The message names the option."""

    def __init__(self, question: str, answers: Sequence[str], flag: str) -> None:
        choices = "".join(f"\n  {answer}" for answer in answers)
        super().__init__(f"{question}; choose with {flag}{choices}")
        self.question = question
        self.answers = tuple(answers)
        self.flag = flag


class UnknownModel(ModelError, LookupError):
    """A reference that matches no model of the registry."""

    def __init__(self, ref: str, known: Sequence[str]) -> None:
        models = ", ".join(known) or "no model"
        super().__init__(f"model {ref!r}: not in the registry, which has {models}")
        self.ref = ref
        self.known = tuple(known)


class AmbiguousModel(ModelError, LookupError):
    """A reference that matches several models."""

    def __init__(self, ref: str, matches: Sequence[str]) -> None:
        super().__init__(f"model {ref!r} is ambiguous; choose one of {', '.join(matches)}")
        self.ref = ref
        self.matches = tuple(matches)
