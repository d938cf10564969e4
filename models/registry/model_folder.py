"""A model as a folder: its network file, and a manifest that says all about it.

manifest.json   what Manifest holds
model.xml/.bin  OpenVINO IR; one input, uint8 (1, H, W, 3) in the order B, G, R; all
                pre-processing inside; named float32 outputs, each with a batch axis. H and W may be
                open: then it takes any multiples of 32, and parts of pictures too
int8.xml/.bin   the same network in 8 bits, where `model.xml` is float and there is one: whichever
                is faster on a machine serves there
others          listed in the manifest, such as the ONNX file that it was made from
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import stat
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from framegate.models.errors import ManifestRefused, ModelUnreadable

# -- Checks of single keys of a manifest; each raises ManifestRefused with key, value and range.


NAME = r"[a-z][a-z0-9_-]{0,31}"
VERSION = r"[A-Za-z0-9][A-Za-z0-9._+-]{0,31}"
FORMAT = r"[a-z][a-z0-9_]{0,31}"
FILE = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}"
FILE_VERSION = 1  # of manifest.json; grows when an older Framegate would misread it
_SHA256 = r"[0-9a-f]{64}"
_MOST_TEXT = 2000
_MOST_INT = 2**53  # what a double holds
_DEEPEST = 4

PerChannel = tuple[float, float, float]


def keys(prefix: str, table: Any, wanted: Sequence[str], optional: Sequence[str] = ()) -> None:
    """`table` is a table with the keys `wanted`, and of the `optional` ones any."""
    if not isinstance(table, dict):
        raise ManifestRefused(prefix.rstrip(".") or "the file", type(table).__name__, "a table")
    if unknown := [key for key in table if key not in (*wanted, *optional)]:
        raise ManifestRefused(f"{prefix}{unknown[0]}", "unknown key", ", ".join(wanted))
    if missing := [key for key in wanted if key not in table]:
        raise ManifestRefused(f"{prefix}{missing[0]}", "missing", "a value")


def named(key: str, value: Any, pattern: str) -> None:
    """A string that matches `pattern` whole."""
    if not isinstance(value, str) or not re.fullmatch(pattern, value):
        raise ManifestRefused(key, repr(value), pattern)


def one_of(key: str, value: Any, allowed: Sequence[str]) -> None:
    """One of some words."""
    if value not in allowed:
        raise ManifestRefused(key, repr(value), " or ".join(allowed))


def whole(key: str, value: Any, least: int, most: int) -> None:
    """A whole number in a range."""
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise ManifestRefused(key, repr(value), f"a whole number from {least} to {most}")


def number(key: str, value: Any, least: float, most: float) -> float:
    """A finite number in a range, as a float: 1 and 1.0 give one digest."""
    fits = isinstance(value, int | float) and not isinstance(value, bool)
    if not fits or not least <= value <= most:
        raise ManifestRefused(key, repr(value), f"a number from {least:g} to {most:g}")
    return float(value)


def triple(key: str, value: Any, least: float) -> PerChannel:
    """Three finite numbers, one a channel."""
    if not isinstance(value, tuple | list) or len(value) != 3:
        raise ManifestRefused(key, repr(value), "three numbers, one a channel")
    first, second, third = (number(key, one, least, 1e9) for one in value)
    return first, second, third


def labels(key: str, value: Any, most: int) -> None:
    """1 to `most` unique names without control characters, each of at most 64 characters."""
    if not isinstance(value, tuple) or not 1 <= len(value) <= most:
        found = f"{len(value)} names" if isinstance(value, tuple) else repr(value)
        raise ManifestRefused(key, found, f"a list of 1 to {most} names")
    for label in value:
        if not isinstance(label, str) or not 0 < len(label) <= 64 or not label.isprintable():
            raise ManifestRefused(key, repr(label), "names of 1 to 64 printable characters")
    if twice := [label for i, label in enumerate(value) if label in value[:i]]:
        raise ManifestRefused(key, f"{twice[0]!r} twice", "each name once")


def text(key: str, value: Any) -> None:
    """Some words, or none."""
    if not _is_text(value) or len(value) > _MOST_TEXT:
        raise ManifestRefused(key, repr(value)[:80], f"text of at most {_MOST_TEXT} characters")


def of_labels(key: str, value: Any, known: Sequence[str]) -> dict[str, Any]:
    """A table whose keys are labels, each of them known."""
    if not isinstance(value, dict):
        raise ManifestRefused(key, repr(value)[:80], "a table by label")
    if unknown := [label for label in value if label not in known]:
        raise ManifestRefused(f"{key}.{unknown[0]}", "unknown label", ", ".join(known[:20]))
    return dict(value)


def plain(key: str, value: Any) -> dict[str, Any]:
    """A table of numbers, strings and lists of them, as JSON gives it back."""
    if not isinstance(value, dict) or not all(map(_is_text, value)):
        raise ManifestRefused(key, repr(value)[:80], "a table")
    for name, one in value.items():
        if not _is_plain(one, _DEEPEST):
            allowed = "a finite number, a string or a list of them"
            raise ManifestRefused(f"{key}.{name}", repr(one)[:80], allowed)
    return {name: _listed(one) for name, one in value.items()}


def file_sums(key: str, value: Any, needed: Sequence[str], own: str) -> None:
    """A table of file names to sha256; no name may leave the folder or be `own`."""
    if not isinstance(value, dict):
        raise ManifestRefused(key, repr(value)[:80], "a table of file names and their sha256")
    for name, digest in value.items():
        if not isinstance(name, str) or not re.fullmatch(FILE, name) or name == own:
            allowed = f"a plain file name inside the folder ({FILE}), not {own}"
            raise ManifestRefused(key, repr(name), allowed)
        named(f"{key}.{name}", digest, _SHA256)
    if missing := [name for name in needed if name not in value]:
        raise ManifestRefused(f"{key}.{missing[0]}", "missing", "its sha256")


def _listed(value: Any) -> Any:
    return [_listed(one) for one in value] if isinstance(value, list | tuple) else value


def _is_plain(value: Any, depth: int) -> bool:
    if isinstance(value, list | tuple):
        return depth > 0 and all(_is_plain(one, depth - 1) for one in value)
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, int):
        return abs(value) <= _MOST_INT
    return _is_text(value)


def _is_text(value: Any) -> bool:
    """Return whether it can be written: half of a surrogate pair, as JSON may have, cannot."""
    return isinstance(value, str) and not any("\ud800" <= one <= "\udfff" for one in value)


Fit = Literal["letterbox", "corner", "stretch"]
Colour = Literal["rgb", "bgr"]
FilePrecision = Literal["f32", "int8"]

MANIFEST = "manifest.json"
NETWORK = "model.xml"
NETWORK_INT8 = "int8.xml"
MOST_CLASSES = 256  # a class id is one byte of a stored box
MOST_PIXELS = 4096  # of one side
_MOST_MANIFEST_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class InputSpec:
    """How a picture becomes the input of a network.

    width, height     of the input in pixels, 1 to 4096
    fit               letterbox: in proportion, centred; corner: in proportion, top left; stretch:
                      to the size
    fill              grey level around the picture, 0..255
    colour            order of the channels that the original network takes
    scale, mean, std  it takes (level * scale - mean) / std, channels in the order of `colour`

    Colour, scale, mean and std are inside the network file already; here they are a record.
    Raises ManifestRefused.
    """

    width: int
    height: int
    fit: Fit = "letterbox"
    fill: int = 114
    colour: Colour = "rgb"
    scale: float = 1.0
    mean: PerChannel = (0.0, 0.0, 0.0)
    std: PerChannel = (1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        for side in ("width", "height"):
            whole(f"input.{side}", getattr(self, side), 1, MOST_PIXELS)
        one_of("input.fit", self.fit, get_args(Fit))
        whole("input.fill", self.fill, 0, 255)
        one_of("input.colour", self.colour, get_args(Colour))
        object.__setattr__(self, "scale", number("input.scale", self.scale, 1e-9, 1e9))
        object.__setattr__(self, "mean", triple("input.mean", self.mean, -1e9))
        object.__setattr__(self, "std", triple("input.std", self.std, 1e-9))

    def __str__(self) -> str:
        """Say it in a line, as people read it."""
        parts = [f"{self.width}x{self.height}", f"{self.fit} on grey {self.fill}", self.colour]
        if self.fit == "stretch":
            parts[1] = "stretched"
        if self.scale != 1:
            inverse = round(1 / self.scale, 6)
            parts.append(f"levels / {inverse:g}" if inverse >= 1 else f"levels * {self.scale:g}")
        if any(self.mean):
            parts.append(f"- ({', '.join(f'{one:g}' for one in self.mean)})")
        if any(one != 1 for one in self.std):
            parts.append(f"/ ({', '.join(f'{one:.4g}' for one in self.std)})")
        return ", ".join(parts)


@dataclass(frozen=True, slots=True)
class FootageSpan:
    """Footage of one source: from its moment `from_s` until `until_s`, on the source's clock."""

    source: str
    from_s: float
    until_s: float

    def __post_init__(self) -> None:
        text("learned.spans.source", self.source)
        for key in ("from_s", "until_s"):
            seconds = number(f"learned.spans.{key}", getattr(self, key), -1e12, 1e12)
            object.__setattr__(self, key, seconds)


@dataclass(frozen=True, slots=True)
class Learned:
    """What a model was tuned or trained on, so that later footage is known from earlier.

    general  the model that it came from, and that it is held against: its name, and behind a
             space whatever else is to be said of it
    teacher  what said where objects are: result names of its networks, or "people"
    spans    of footage; of each source at most one
    frames   pictures that were looked at; boxes  that the teacher was sure of in them
    struck   labels of the general model that were seen there and that nobody wants reported
    merged   label of the general model -> the class that its objects were taken for, where the
             network knows the latter only (else the manifest's `merged` says it)

    Raises ManifestRefused.
    """

    general: str
    teacher: str
    frames: int
    boxes: int
    spans: tuple[FootageSpan, ...]
    struck: tuple[str, ...] = ()
    merged: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        text("learned.general", self.general)
        if not self.general.strip():
            raise ManifestRefused("learned.general", repr(self.general), "the name of a model")
        text("learned.teacher", self.teacher)
        whole("learned.frames", self.frames, 0, _MOST_INT)
        whole("learned.boxes", self.boxes, 0, _MOST_INT)
        named_sources = [span.source for span in self.spans]
        if len(set(named_sources)) < len(named_sources):
            raise ManifestRefused("learned.spans", f"{named_sources}", "each source once")
        if self.struck:
            labels("learned.struck", self.struck, MOST_CLASSES)
        if self.merged:
            labels("learned.merged", tuple(plain("learned.merged", self.merged)), MOST_CLASSES)

    @staticmethod
    def of(table: Any) -> Learned:
        """What a manifest's file has. Raises ManifestRefused."""
        known = [one.name for one in fields(Learned)]
        keys("learned.", table, [key for key in known if key not in _OPTIONAL], _OPTIONAL)
        spans = table["spans"]
        if not isinstance(spans, list):
            raise ManifestRefused("learned.spans", repr(spans)[:80], "a list of tables")
        for span in spans:
            keys("learned.spans.", span, [one.name for one in fields(FootageSpan)])
        lists = {key: _tuple(table[key]) for key in ("struck",) if key in table}
        return Learned(**{**table, **lists, "spans": tuple(FootageSpan(**span) for span in spans)})


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a model is; checked whole at construction.

    name        [a-z][a-z0-9_-]{0,31}
    version     [A-Za-z0-9][A-Za-z0-9._+-]{0,31}
    classes     1 to 256 unique labels, in the order of class ids
    precision   of the weights in the network file; f32 counts float16 that lost nothing
    format      a key of `formats.FORMATS`
    options     of that format: numbers, strings and lists of them
    outputs     names of the network's outputs, in the order in which the format reads them
    min_score   .000001 to .9999; nms_iou 0..1; max_boxes 1 to 1000
    files       sha256 of every file of the folder but the manifest, by name
    metrics     what was measured of it: numbers, strings and lists of them
    merged      class -> the class of the same network that its objects are published as
    min_scores  published class -> its least score; where there are any, classes that are not named
                are off unless somebody asks for them by name
    learned     what it was tuned or trained on; None: not known

    The last three are optional: a manifest without them has the digest of one that never names
    them. Raises ManifestRefused.
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
        named("name", self.name, NAME)
        named("version", self.version, VERSION)
        one_of("task", self.task, ("detect",))
        labels("classes", self.classes, MOST_CLASSES)
        if not isinstance(self.input, InputSpec):
            raise ManifestRefused("input", repr(self.input), "a table")
        one_of("precision", self.precision, get_args(FilePrecision))
        named("format", self.format, FORMAT)
        labels("outputs", self.outputs, 16)
        for table in ("options", "metrics"):
            object.__setattr__(self, table, plain(table, getattr(self, table)))
        text("licence", self.licence)
        text("provenance", self.provenance)
        object.__setattr__(self, "min_score", number("min_score", self.min_score, 1e-6, 0.9999))
        object.__setattr__(self, "nms_iou", number("nms_iou", self.nms_iou, 0, 1))
        whole("max_boxes", self.max_boxes, 1, 1000)
        file_sums("files", self.files, (NETWORK, "model.bin"), MANIFEST)
        merged = of_labels("merged", self.merged, self.classes)
        for label, into in merged.items():
            one_of(f"merged.{label}", into, [one for one in self.classes if one not in merged])
        for label, into in self.taken_for.items():
            if label not in merged:
                one_of(f"learned.merged.{label}", into, self.published)
        scores = of_labels("min_scores", self.min_scores, self.published)
        for label, score in scores.items():
            scores[label] = number(f"min_scores.{label}", score, 1e-6, 0.9999)
        object.__setattr__(self, "min_scores", scores)

    @property
    def published(self) -> tuple[str, ...]:
        """The labels that it can answer with: its classes, but for those that are merged."""
        return tuple(label for label in self.classes if label not in self.merged)

    @property
    def taken_for(self) -> dict[str, str]:
        """Label of the general model -> what this one calls its objects, where it differs."""
        return self.merged | (self.learned.merged if self.learned is not None else {})

    @property
    def usual(self) -> tuple[str, ...]:
        """The labels that it answers with where nobody asks for others."""
        on = self.min_scores or self.published
        return tuple(label for label in self.published if label in on)

    @property
    def sha256(self) -> str:
        """The digest of everything in it, hence of every file too."""
        text = json.dumps(_plain(self), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def ref(self) -> str:
        """`NAME@VERSION`, as people say it."""
        return f"{self.name}@{self.version}"

    @property
    def result_name(self) -> str:
        """`NAME@sha8`, as results carry it."""
        return f"{self.name}@{self.sha256[:8]}"

    def to_json(self) -> str:
        """As `manifest.json` holds it, with that file's version, which the digest leaves out."""
        table = {"v": FILE_VERSION, **_plain(self)}
        return json.dumps(table, indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    @staticmethod
    def from_json(text: str) -> Manifest:
        """Read what `to_json` wrote. Raises ManifestRefused, also for unknown and missing keys."""
        try:
            table = json.loads(text, parse_constant=_no_constant)
        except (ValueError, RecursionError) as fault:
            raise ManifestRefused("the file", f"no JSON ({fault})", "one JSON object") from fault
        wrote = table.pop("v", 1) if isinstance(table, dict) else 1
        if wrote != FILE_VERSION:
            allowed = f"{FILE_VERSION}: a newer Framegate wrote it"
            raise ManifestRefused("v", repr(wrote), allowed)
        known = [one.name for one in fields(Manifest)]
        keys("", table, [key for key in known if key not in _OPTIONAL], _OPTIONAL)
        said = table["input"]
        keys("input.", said, [one.name for one in fields(InputSpec)])
        spec = InputSpec(**{key: _tuple(value) for key, value in said.items()})
        lists = {key: _tuple(table[key]) for key in ("classes", "outputs")}
        learned = Learned.of(table["learned"]) if "learned" in table else None
        return Manifest(**{**table, **lists, "input": spec, "learned": learned})


# Optional keys, here and in `learned`: without a value they are not written.
_OPTIONAL = ("merged", "min_scores", "learned", "struck")


def _plain(manifest: Manifest) -> dict[str, Any]:
    return asdict(manifest, dict_factory=_said)


def _said(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return {key: value for key, value in pairs if value or key not in _OPTIONAL}


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _no_constant(word: str) -> float:
    raise ValueError(f"{word} is no number")


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A model on disk."""

    path: Path
    manifest: Manifest

    def verified(self) -> Path:
        """The network file, after every listed file's bytes were hashed.

        Raises ModelUnreadable with file, the sum expected and the sum found.
        """
        for name, expected in self.manifest.files.items():
            found = _sum(self.path / name, expected)
            if found != expected:
                raise ModelUnreadable(self.path / name, f"sha256 {expected}", found)
        return self.path / NETWORK

    @property
    def n_bytes(self) -> int:
        """Of all listed files."""
        return sum((self.path / name).stat().st_size for name in self.manifest.files)


def open_folder(path: Path) -> ModelFolder:
    """The model at `path`, its manifest checked, its files not yet.

    Raises ModelUnreadable when there is no manifest, ManifestRefused when it is wrong.
    """
    file = path / MANIFEST
    try:
        if file.stat().st_size > _MOST_MANIFEST_BYTES:
            found = f"{file.stat().st_size} bytes"
            raise ModelUnreadable(file, f"at most {_MOST_MANIFEST_BYTES} bytes", found)
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as fault:
        raise ModelUnreadable(file, "a manifest", str(fault)) from fault
    return ModelFolder(path, Manifest.from_json(text))


def sha256_of(path: Path) -> str:
    """Of a file's bytes. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sum(path: Path, expected: str) -> str:
    try:
        # A link may point out of the folder.
        if not stat.S_ISREG(path.lstat().st_mode):
            raise ModelUnreadable(path, f"sha256 {expected}", "no regular file")
        return sha256_of(path)
    except OSError as fault:
        raise ModelUnreadable(path, f"sha256 {expected}", fault.strerror or repr(fault)) from fault
