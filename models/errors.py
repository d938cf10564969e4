"""What can go wrong in `models`, one class a fault, each carrying the facts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


class ModelError(Exception):
    """Root of every error that this package raises on purpose."""


class ArrayMismatch(ModelError, ValueError):
    """An array is not what its place in a record asks for."""

    def __init__(self, name: str, expected: str, found: str) -> None:
        super().__init__(f"{name}: expected {expected}, found {found}")
        self.name, self.expected, self.found = name, expected, found


class ModelUnreadable(ModelError):
    """A weight file is missing, or its bytes are not those of the manifest."""

    def __init__(self, path: Path, expected: str, found: str) -> None:
        super().__init__(f"{path}: expected {expected}, found {found}")
        self.path, self.expected, self.found = path, expected, found


class PictureUnreadable(ModelError):
    """An image file that OpenCV cannot read."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path}: not an image file that can be read")
        self.path = path


class PictureDamaged(ModelError, ValueError):
    """Bytes that are no picture which OpenCV can decode."""

    def __init__(self, n_bytes: int) -> None:
        super().__init__(f"{n_bytes} bytes: not a picture that can be decoded")
        self.n_bytes = n_bytes


class PrecisionUnsupported(ModelError, ValueError):
    """A precision that this program or this CPU does not have."""

    def __init__(self, precision: str, supported: tuple[str, ...]) -> None:
        super().__init__(f"precision {precision!r}: this CPU has {', '.join(supported)}")
        self.precision, self.supported = precision, supported


class DeviceMissing(ModelError, ValueError):
    """A device that is not on this machine, or not for this model."""

    def __init__(self, device: str, there: tuple[str, ...], why: str = "") -> None:
        because = f" ({why})" if why else ""
        super().__init__(
            f"device {device!r}: not on this machine{because}; allowed here are "
            f"{', '.join((*there, 'AUTO'))}"
        )
        self.device, self.there, self.why = device, there, why


class DeviceRefused(ModelError):
    """A device that cannot compute a network, or whose answers are not the CPU's."""

    def __init__(self, device: str, why: str) -> None:
        super().__init__(f"device {device!r}: {why}; take CPU, or AUTO, which passes it over")
        self.device, self.why = device, why


class UnknownDetector(ModelError, ValueError):
    """A detector name that no policy describes."""

    def __init__(self, name: str, known: tuple[str, ...]) -> None:
        super().__init__(f"detector {name!r}: known are {', '.join(known)}")
        self.name, self.known = name, known


class UnknownClass(ModelError, ValueError):
    """Class names that are not among the labels of a model."""

    def __init__(
        self, names: tuple[str, ...], model: str = "COCO", labels: Sequence[str] = ()
    ) -> None:
        there = f"; it has {', '.join(labels[:12])}{', ...' * (len(labels) > 12)}" if labels else ""
        of = f"the {len(labels) or 80} {'classes of ' if labels else ''}{model}"
        super().__init__(f"not among {of}{'' if labels else ' classes'}: {', '.join(names)}{there}")
        self.names, self.model, self.labels = names, model, tuple(labels)


class WarmUpFailed(ModelError):
    """The first inference of a network failed: the detector must not start."""

    def __init__(self, model: str, shape: tuple[int, ...], reason: str) -> None:
        super().__init__(f"{model} failed its warm-up at {shape}: {reason}")
        self.model, self.shape, self.reason = model, shape, reason


class OutputsNotFinite(ModelError):
    """A network gave numbers that are none: nobody knows what is in the picture."""

    def __init__(self, model: str, shape: tuple[int, ...]) -> None:
        super().__init__(f"{model}: outputs for an input of {shape} are not finite")
        self.model, self.shape = model, shape


class TooManyInFlight(ModelError):
    """More pictures submitted than answers read."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"{limit} pictures are in flight: read an answer first")
        self.limit = limit


class WholePicturesOnly(ModelError, ValueError):
    """A part of a picture, or a prepared one, given to a detector of several input sizes."""

    def __init__(self, models: tuple[str, ...]) -> None:
        super().__init__(f"{', '.join(models)} take whole pictures, each at its own size")
        self.models = models


class NotInstalled(ModelError):
    """A package that only an extra of the install brings."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{package} is not installed, which is needed {purpose}: "
            f"in Framegate's checkout, pip install '.[{extra}]' (or make extras)"
        )
        self.package, self.extra = package, extra


class TooFewFrames(ModelError):
    """Footage too short to learn from and to judge by."""

    def __init__(self, found: int, least: int) -> None:
        super().__init__(f"{found} frames in all: allowed is {least} and more")
        self.found, self.least = found, least


class TrainingRefused(ModelError):
    """A training that cannot begin or go on; the message says what, where and what is allowed."""


class NotQuantised(ModelError):
    """NNCF gave up on a network."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"NNCF cannot quantise this network: {reason}")
        self.reason = reason


# -- Why a model is not taken or not found, one class a fault, each carrying the facts.


class ManifestRefused(ModelError, ValueError):
    """A manifest says what no model can have."""

    def __init__(self, key: str, found: str, allowed: str) -> None:
        super().__init__(f"manifest: {key} = {found}: allowed is {allowed}")
        self.key, self.found, self.allowed = key, found, allowed


class ModelRefused(ModelError):
    """A model file that is not taken; the message says what, where and what is allowed."""

    def __init__(self, file: Path | str, reason: str) -> None:
        super().__init__(f"{file}: refused: {reason}")
        self.file, self.reason = str(file), reason


class Undecided(ModelError):
    """A question about a model that its file does not answer; the message names the flags."""

    def __init__(self, question: str, answers: Sequence[str], flag: str) -> None:
        choices = "".join(f"\n  {answer}" for answer in answers)
        super().__init__(f"{question}; say which with {flag}{choices}")
        self.question, self.answers, self.flag = question, tuple(answers), flag


class UnknownModel(ModelError, LookupError):
    """A reference that no model of the registry answers to."""

    def __init__(self, ref: str, known: Sequence[str]) -> None:
        there = ", ".join(known) if known else "no model"
        super().__init__(f"model {ref!r}: not in the registry, which has {there}")
        self.ref, self.known = ref, tuple(known)


class AmbiguousModel(ModelError, LookupError):
    """A reference that several models answer to."""

    def __init__(self, ref: str, meant: Sequence[str]) -> None:
        super().__init__(f"model {ref!r}: may be any of {', '.join(meant)}; say which")
        self.ref, self.meant = ref, tuple(meant)
