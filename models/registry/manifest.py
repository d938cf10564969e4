"""The manifest of a model: its fields, which are checked at construction, and its JSON text."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, get_args

from framegate.models.errors import ManifestRefused

NAME = r"[a-z][a-z0-9_-]{0,31}"
VERSION = r"[A-Za-z0-9][A-Za-z0-9._+-]{0,31}"
FORMAT = r"[a-z][a-z0-9_]{0,31}"
FILE = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}"
FILE_VERSION = 1  # of manifest.json; grows when an older Framegate would misread the file
_MAX_TEXT = 2000
_MAX_INT = 2**53  # up to here a double is exact
_MAX_DEPTH = 4

PerChannel = tuple[float, float, float]

# -- Checks of single values of a manifest. Each raises ManifestRefused with key, value and range.


def check_pattern(key: str, value: Any, pattern: str) -> None:
    """Raise ManifestRefused unless `value` is a string that matches `pattern` as a whole."""
    if not isinstance(value, str) or not re.fullmatch(pattern, value):
        raise ManifestRefused(key, repr(value), pattern)


def _check_choice(key: str, value: Any, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise ManifestRefused(key, repr(value), " or ".join(allowed))


def _check_int(key: str, value: Any, min_: int, max_: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not min_ <= value <= max_:
        raise ManifestRefused(key, repr(value), f"a whole number from {min_} to {max_}")


def _as_float(key: str, value: Any, min_: float, max_: float) -> float:
    """Return a number in a range as a float, so that 1 and 1.0 have the same digest."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not min_ <= value <= max_:
        raise ManifestRefused(key, repr(value), f"a number from {min_:g} to {max_:g}")
    return float(value)


def _as_triple(key: str, value: Any, min_: float) -> PerChannel:
    if not isinstance(value, tuple | list) or len(value) != 3:
        raise ManifestRefused(key, repr(value), "three numbers, one per channel")
    first, second, third = (_as_float(key, level, min_, 1e9) for level in value)
    return first, second, third


def _check_labels(key: str, value: Any, max_: int) -> None:
    allowed = f"a list of 1 to {max_} names"
    if not isinstance(value, tuple):
        raise ManifestRefused(key, repr(value), allowed)
    if not 1 <= len(value) <= max_:
        raise ManifestRefused(key, f"{len(value)} names", allowed)
    for index, label in enumerate(value):
        if not isinstance(label, str) or not 0 < len(label) <= 64 or not label.isprintable():
            raise ManifestRefused(key, repr(label), "names of 1 to 64 printable characters")
        if label in value[:index]:
            raise ManifestRefused(key, f"{label!r} twice", "each name once")


def _check_text(key: str, value: Any) -> None:
    if not _is_text(value) or len(value) > _MAX_TEXT:
        raise ManifestRefused(key, repr(value)[:80], f"text of at most {_MAX_TEXT} characters")


def _as_label_table(key: str, value: Any, known: Sequence[str]) -> dict[str, Any]:
    """Return a copy of a table whose keys are known labels."""
    if not isinstance(value, dict):
        raise ManifestRefused(key, repr(value)[:80], "a table by label")
    unknown = [label for label in value if label not in known]
    if unknown:
        raise ManifestRefused(f"{key}.{unknown[0]}", "unknown label", ", ".join(known[:20]))
    return dict(value)


def _as_plain_table(key: str, value: Any) -> dict[str, Any]:
    """Return a table of numbers, strings and lists, with tuples as lists, as JSON reads them."""
    if not isinstance(value, dict) or not all(map(_is_text, value)):
        raise ManifestRefused(key, repr(value)[:80], "a table")
    for name, entry in value.items():
        if not _is_plain(entry, _MAX_DEPTH):
            allowed = "a finite number, a string or a list of them"
            raise ManifestRefused(f"{key}.{name}", repr(entry)[:80], allowed)
    table: dict[str, Any] = json.loads(json.dumps(value))
    return table


def _check_files(key: str, value: Any) -> None:
    """Check a table of file names to sha256. No name may lead out of the folder."""
    if not isinstance(value, dict):
        raise ManifestRefused(key, repr(value)[:80], "a table of file names and their sha256")
    for name, digest in value.items():
        if not isinstance(name, str) or not re.fullmatch(FILE, name) or name == MANIFEST:
            allowed = f"a plain file name inside the folder ({FILE}), not {MANIFEST}"
            raise ManifestRefused(key, repr(name), allowed)
        check_pattern(f"{key}.{name}", digest, r"[0-9a-f]{64}")
    for name in (NETWORK, WEIGHTS):
        if name not in value:
            raise ManifestRefused(f"{key}.{name}", "missing", "its sha256")


def _is_plain(value: Any, depth: int) -> bool:
    if isinstance(value, list | tuple):
        return depth > 0 and all(_is_plain(entry, depth - 1) for entry in value)
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, int):
        return abs(value) <= _MAX_INT
    return _is_text(value)


def _is_text(value: Any) -> bool:
    """Return whether UTF-8 can encode it: JSON may contain half of a surrogate pair."""
    return isinstance(value, str) and not any("\ud800" <= each <= "\udfff" for each in value)


def printable(text: str) -> str:
    """Return text of a foreign file with U+FFFD for all that may control a terminal."""
    return "".join(each if each.isprintable() else "\ufffd" for each in text)


Fit = Literal["letterbox", "corner", "stretch"]
ChannelOrder = Literal["rgb", "bgr"]
FilePrecision = Literal["f32", "int8"]

MANIFEST = "manifest.json"
NETWORK = "model.xml"
NETWORK_INT8 = "int8.xml"
WEIGHTS = "model.bin"
MAX_CLASSES = 256  # a class id is one byte of a stored box
MAX_PIXELS = 4096  # of a side


@dataclass(frozen=True, slots=True)
class InputSpec:
    """The conversion of a picture into the input of a network.

    width, height     of the input in pixels, 1 to 4096
    fit               letterbox: in proportion, centred; corner: in proportion, top left; stretch:
                      to the size
    fill              grey level around the picture, 0..255
    colour            order of the channels that the original network takes
    scale, mean, std  the original network takes (level * scale - mean) / std, with the channels in
                      the order of `colour`

    The network file applies colour, scale, mean and std; here they are a record.
    Raises ManifestRefused.
    """

    width: int
    height: int
    fit: Fit = "letterbox"
    fill: int = 114
    colour: ChannelOrder = "rgb"
    scale: float = 1.0
    mean: PerChannel = (0.0, 0.0, 0.0)
    std: PerChannel = (1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        _check_int("input.width", self.width, 1, MAX_PIXELS)
        _check_int("input.height", self.height, 1, MAX_PIXELS)
        _check_choice("input.fit", self.fit, get_args(Fit))
        _check_int("input.fill", self.fill, 0, 255)
        _check_choice("input.colour", self.colour, get_args(ChannelOrder))
        object.__setattr__(self, "scale", _as_float("input.scale", self.scale, 1e-9, 1e9))
        object.__setattr__(self, "mean", _as_triple("input.mean", self.mean, -1e9))
        object.__setattr__(self, "std", _as_triple("input.std", self.std, 1e-9))

    def __str__(self) -> str:
        """Return a line for users, such as `640x384, stretched, rgb, levels / 255`."""
        fit = f"{self.fit} on grey {self.fill}"
        if self.fit == "stretch":
            fit = "stretched"
        parts = [f"{self.width}x{self.height}", fit, self.colour]
        inverse = round(1 / self.scale, 6)
        if self.scale != 1 and inverse >= 1:
            parts.append(f"levels / {inverse:g}")
        elif self.scale != 1:
            parts.append(f"levels * {self.scale:g}")
        if any(self.mean):
            mean = ", ".join(f"{level:g}" for level in self.mean)
            parts.append(f"- ({mean})")
        if self.std != (1, 1, 1):
            std = ", ".join(f"{level:.4g}" for level in self.std)
            parts.append(f"/ ({std})")
        return ", ".join(parts)


@dataclass(frozen=True, slots=True)
class FootageSpan:
    """Footage of a source from `from_s` until `until_s`, seconds on the source's clock."""

    source: str
    from_s: float
    until_s: float

    def __post_init__(self) -> None:
        _check_text("learned.spans.source", self.source)
        for key in ("from_s", "until_s"):
            seconds = _as_float(f"learned.spans.{key}", getattr(self, key), -1e12, 1e12)
            object.__setattr__(self, key, seconds)


@dataclass(frozen=True, slots=True)
class Learned:
    """The footage and the choices from which a model was tuned or trained.

    Judging on later footage needs the spans, so that no picture is used for both.

    general  the model that was tuned and is compared with this one: its name, after a space
             optional remarks
    teacher  result names of the networks that labelled the footage, or "people"
    spans    of footage, at most one per source
    frames   number of labelled pictures; boxes  number of confident boxes of the teacher in them
    struck   labels of the general model that occurred there and that no person confirmed
    confirmed  labels of the general model of which a person confirmed that they are there
    merged   label of the general model -> class of this model for the same objects, where this
             network does not have the label (otherwise the manifest has it in `merged`)

    Raises ManifestRefused.
    """

    general: str
    teacher: str
    frames: int
    boxes: int
    spans: tuple[FootageSpan, ...]
    struck: tuple[str, ...] = ()
    confirmed: tuple[str, ...] = ()
    merged: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_text("learned.general", self.general)
        if not self.general.strip():
            raise ManifestRefused("learned.general", repr(self.general), "the name of a model")
        _check_text("learned.teacher", self.teacher)
        _check_int("learned.frames", self.frames, 0, _MAX_INT)
        _check_int("learned.boxes", self.boxes, 0, _MAX_INT)
        sources = [span.source for span in self.spans]
        if len(set(sources)) < len(sources):
            raise ManifestRefused("learned.spans", f"{sources}", "each source once")
        for key in ("struck", "confirmed"):
            if getattr(self, key) != ():
                _check_labels(f"learned.{key}", getattr(self, key), MAX_CLASSES)
        if self.merged != {}:
            merged = _as_plain_table("learned.merged", self.merged)
            _check_labels("learned.merged", tuple(merged), MAX_CLASSES)

    @staticmethod
    def from_table(table: Any) -> Learned:
        """Read the table of a manifest file. Raises ManifestRefused."""
        _check_fields("learned.", table, Learned)
        spans = table["spans"]
        if not isinstance(spans, list):
            raise ManifestRefused("learned.spans", repr(spans)[:80], "a list of tables")
        for span in spans:
            _check_fields("learned.spans.", span, FootageSpan)
        values = {key: _as_tuple(value) for key, value in table.items()}
        values["spans"] = tuple(FootageSpan(**span) for span in spans)
        return Learned(**values)


@dataclass(frozen=True, slots=True)
class Manifest:
    """The description of a model. Construction checks all values.

    name        [a-z][a-z0-9_-]{0,31}
    version     [A-Za-z0-9][A-Za-z0-9._+-]{0,31}
    classes     1 to 256 unique labels, in the order of class ids
    precision   of the weights in the network file; f32 includes float16 without loss
    format      a key of `formats.FORMATS`
    options     of the format: numbers, strings and lists of them
    outputs     names of the network's outputs, in the order in which the format reads them
    min_score   .000001 to .9999; nms_iou 0..1; max_boxes 1 to 1000
    files       sha256 of every file of the folder except the manifest, by name
    metrics     measurements of the model: numbers, strings and lists of them
    merged      class -> class of the same network as which its objects are published
    min_scores  published class -> its confidence threshold; if not empty, all other classes are off
                unless a caller asks for them by name
    learned     footage from which the model was tuned or trained; None: not known

    The last three are optional. An empty value is not written and does not change the digest.
    Raises ManifestRefused.
    """

    name: str
    version: str
    task: Literal["detect"]
    classes: tuple[str, ...]
    input: InputSpec
    precision: FilePrecision
    format: str
    options: dict[str, Any]
    outputs: tuple[str, ...]
    min_score: float
    nms_iou: float
    max_boxes: int
    files: dict[str, str]
    metrics: dict[str, Any]
    licence: str
    provenance: str
    merged: dict[str, str] = field(default_factory=dict)
    min_scores: dict[str, float] = field(default_factory=dict)
    learned: Learned | None = None

    def __post_init__(self) -> None:
        check_pattern("name", self.name, NAME)
        check_pattern("version", self.version, VERSION)
        _check_choice("task", self.task, ("detect",))
        _check_labels("classes", self.classes, MAX_CLASSES)
        if not isinstance(self.input, InputSpec):
            raise ManifestRefused("input", repr(self.input), "a table")
        _check_choice("precision", self.precision, get_args(FilePrecision))
        check_pattern("format", self.format, FORMAT)
        _check_labels("outputs", self.outputs, 16)
        _check_text("licence", self.licence)
        _check_text("provenance", self.provenance)
        _check_int("max_boxes", self.max_boxes, 1, 1000)
        _check_files("files", self.files)
        merged = _as_label_table("merged", self.merged, self.classes)
        for label, into in merged.items():
            _check_choice(f"merged.{label}", into, self.published)
        for label, into in self.published_as.items():
            if label not in merged:
                _check_choice(f"learned.merged.{label}", into, self.published)
        min_scores = _as_label_table("min_scores", self.min_scores, self.published)
        for label, score in min_scores.items():
            min_scores[label] = _as_float(f"min_scores.{label}", score, 1e-6, 0.9999)
        checked = {
            "options": _as_plain_table("options", self.options),
            "metrics": _as_plain_table("metrics", self.metrics),
            "min_score": _as_float("min_score", self.min_score, 1e-6, 0.9999),
            "nms_iou": _as_float("nms_iou", self.nms_iou, 0, 1),
            "min_scores": min_scores,
        }
        for key, value in checked.items():
            object.__setattr__(self, key, value)

    @property
    def published(self) -> tuple[str, ...]:
        """The labels of its answers: all classes that are not merged into another."""
        return tuple(label for label in self.classes if label not in self.merged)

    @property
    def published_as(self) -> dict[str, str]:
        """Label of the general model -> label of this model for the same objects, if different."""
        if self.learned is None:
            return self.merged
        return self.merged | self.learned.merged

    @property
    def default_classes(self) -> tuple[str, ...]:
        """The labels of its answers if the caller names no classes."""
        on = self.min_scores or self.published
        return tuple(label for label in self.published if label in on)

    @property
    def sha256(self) -> str:
        """The digest of all values, and therefore of every listed file."""
        text = json.dumps(self._as_table(), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def ref(self) -> str:
        """`NAME@VERSION`, the reference that users write."""
        return f"{self.name}@{self.version}"

    @property
    def result_name(self) -> str:
        """`NAME@sha8`, the reference in results."""
        return f"{self.name}@{self.sha256[:8]}"

    def to_json(self) -> str:
        """Return the text of `manifest.json`. It contains FILE_VERSION, which the digest omits."""
        table = {"v": FILE_VERSION, **self._as_table()}
        return json.dumps(table, indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    def _as_table(self) -> dict[str, Any]:
        return asdict(self, dict_factory=_without_empty)

    @staticmethod
    def from_json(text: str) -> Manifest:
        """Read the text of `manifest.json`.

        Raises ManifestRefused, also for unknown and missing keys, and for a newer FILE_VERSION.
        """
        try:
            table = json.loads(text)
        except (ValueError, RecursionError) as fault:
            raise ManifestRefused("the file", f"no JSON ({fault})", "one JSON object") from fault
        if isinstance(table, dict):
            version = table.pop("v", FILE_VERSION)
            if version != FILE_VERSION:
                allowed = f"{FILE_VERSION}: a newer Framegate wrote it"
                raise ManifestRefused("v", repr(version), allowed)
        _check_fields("", table, Manifest)
        _check_fields("input.", table["input"], InputSpec)
        values = {key: _as_tuple(value) for key, value in table.items()}
        values["input"] = InputSpec(**table["input"])
        if "learned" in table:
            values["learned"] = Learned.from_table(table["learned"])
        return Manifest(**values)


# Keys of a manifest, and of its `learned`, that are not written without a value.
_OPTIONAL = ("merged", "min_scores", "learned", "struck", "confirmed")


def _without_empty(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return {key: value for key, value in pairs if value or key not in _OPTIONAL}


def _check_fields(prefix: str, table: Any, kind: Any) -> None:
    """Check that the keys of a table are the fields of a dataclass."""
    if not isinstance(table, dict):
        raise ManifestRefused(prefix.rstrip(".") or "the file", type(table).__name__, "a table")
    known = [each.name for each in fields(kind)]
    required = [name for name in known if name not in _OPTIONAL]
    for key in table:
        if key not in known:
            raise ManifestRefused(f"{prefix}{key}", "unknown key", ", ".join(required))
    for key in required:
        if key not in table:
            raise ManifestRefused(f"{prefix}{key}", "missing", "a value")


def _as_tuple(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(value)
    return value
