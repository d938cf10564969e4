"""Decide the format, classes and input of a foreign network from its file and the user's options.

Pure. A decision without alternatives is taken, and its reason is reported; with alternatives,
Undecided asks the user.
"""

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from framegate.models.conversion.guess import FormatGuess, Port, candidates, guess_input
from framegate.models.errors import ModelRefused, Undecided
from framegate.models.formats.shared_decoding import Size
from framegate.models.formats.table import FORMATS
from framegate.models.registry.manifest import InputSpec

_MAX_CHOICES = 12


@dataclass(frozen=True, slots=True)
class Wishes:
    """The user's options for a network; None or empty: not given.

    input    values of InputSpec by name
    options  of the format
    outputs  names of the outputs, in the order of the format
    """

    classes: tuple[str, ...] | None = None
    format: str | None = None
    outputs: tuple[str, ...] | None = None
    input: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ImportPlan:
    """The decisions from which the network file is built, with a line of reasons for each."""

    format: str
    ports: tuple[int, ...]
    options: dict[str, Any]
    classes: tuple[str, ...]
    input: InputSpec
    reasons: tuple[str, ...]


def settle(
    file: str, ports: Sequence[Port], size: Size, metadata: Mapping[str, str], wishes: Wishes
) -> ImportPlan:
    """Decide format, classes and input of a network.

    size  (width, height) of its input

    Raises Undecided for a question that only the user can answer, ModelRefused for options that do
    not fit the network.
    """
    reasons: list[str] = []
    classes = wishes.classes
    if classes is None:
        classes = classes_in(metadata)
        if classes is not None:
            reasons.append(f"classes: {len(classes)}, as the file's metadata name them")
    chosen = _format(file, ports, size, classes, wishes, reasons)
    if classes is None:
        count = ""
        if chosen.n_classes:
            count = f"{chosen.n_classes} "
        question = f"{file} does not name its {count}classes"
        raise Undecided(question, ["A,B,C", "FILE", "coco"], "--classes")
    options = _options(file, chosen, len(classes), wishes, reasons)
    spec, reason = guess_input(chosen.format, size, wishes.input)
    reasons.append(f"input: {reason}")
    return ImportPlan(chosen.format, chosen.ports, options, classes, spec, tuple(reasons))


def classes_in(metadata: Mapping[str, str]) -> tuple[str, ...] | None:
    """Return the `names` of Ultralytics, a table {0: 'person', ...} or a list; None: not given."""
    try:
        names = ast.literal_eval(metadata["names"])
    except (KeyError, TypeError, ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    if isinstance(names, dict):
        names = [names[i] for i in range(len(names)) if i in names]
    if not isinstance(names, list | tuple) or not names:
        return None
    return tuple(str(name) for name in names)


def _format(
    file: str,
    ports: Sequence[Port],
    size: Size,
    classes: tuple[str, ...] | None,
    wishes: Wishes,
    reasons: list[str],
) -> FormatGuess:
    indices = _output_indices(file, ports, wishes.outputs)
    chosen = [ports[index] for index in indices]
    n_classes = None
    if classes is not None:
        n_classes = len(classes)
    if wishes.format is not None and wishes.format not in FORMATS:
        raise ModelRefused(
            file, f"--format {wishes.format} is unknown; allowed are {', '.join(FORMATS)}"
        )
    fitting = []
    for guess in candidates(chosen, size, n_classes):
        has_order = wishes.outputs is None or guess.ports == tuple(range(len(chosen)))
        if wishes.format in (None, guess.format) and has_order:
            fitting.append(guess)
    if not fitting and wishes.format is not None:
        fitting = _by_option_alone(chosen, size, n_classes, wishes.format)
    if not fitting:
        raise ModelRefused(file, _misfit(chosen, size, n_classes, wishes))
    if len(fitting) > 1:
        _ask_for_format(file, chosen, fitting, wishes)
    guess = fitting[0]
    as_given = ""
    if wishes.format:
        as_given = ", as given"
    reasons.append(f"format: {guess.format}{as_given}; {guess.why}")
    return replace(guess, ports=tuple(indices[port] for port in guess.ports))


def _ask_for_format(
    file: str, ports: Sequence[Port], fitting: Sequence[FormatGuess], wishes: Wishes
) -> None:
    """Raise Undecided with the order of outputs, or the format, as the question."""
    orders = [",".join(ports[i].name for i in guess.ports) for guess in fitting]
    formats = {guess.format for guess in fitting}
    if len(formats) == 1 and len(set(orders)) > 1:
        raise Undecided(f"which output of {file} is which?", orders, "--outputs")
    answers = [f"{guess.format:<16} {guess.why}" for guess in fitting[:_MAX_CHOICES]]
    flag = "--classes"
    if wishes.format is None:
        flag = "--format"
    raise Undecided(f"the outputs of {file} may be of several formats", answers, flag)


def _output_indices(file: str, ports: Sequence[Port], outputs: tuple[str, ...] | None) -> list[int]:
    """Return the indices of the outputs that the user named; None: all."""
    if outputs is None:
        return list(range(len(ports)))
    names = [port.name for port in ports]
    for name in outputs:
        if name not in names:
            raise ModelRefused(file, f"--outputs: it has no output {name}, but {', '.join(names)}")
    return [names.index(name) for name in outputs]


def _by_option_alone(
    ports: Sequence[Port], size: Size, n_classes: int | None, name: str
) -> list[FormatGuess]:
    """Return the format of --format if its axes fit, unless it has another number of classes."""
    ranks = FORMATS[name].ranks
    if len(ranks) != len(ports):
        return []
    for port, rank in zip(ports, ranks, strict=True):
        if port.shape is not None and port.axes(rank) is None:
            return []
    if any(guess.format == name for guess in candidates(ports, size, None)):
        return []
    order = tuple(range(len(ports)))
    return [FormatGuess(name, order, n_classes or 0, "only --format names it")]


def _misfit(ports: Sequence[Port], size: Size, n_classes: int | None, wishes: Wishes) -> str:
    """Return the reason why no format fits."""
    shapes = ", ".join(str(port) for port in ports)
    if n_classes is not None:
        others = candidates(ports, size, None)
        others = [guess for guess in others if wishes.format in (None, guess.format)]
        if others:
            fitting = " or ".join(f"{guess.n_classes} ({guess.format})" for guess in others)
            return f"{n_classes} classes do not fit its outputs {shapes}: they have {fitting}"
    if wishes.format is not None:
        needed = FORMATS[wishes.format]
        axes = ", ".join(str(rank) for rank in needed.ranks)
        why = f"{needed.about}; {len(needed.ranks)} outputs of {axes} axes and a batch axis"
        return f"its outputs {shapes} do not fit {wishes.format}: {why}"
    known = ", ".join(FORMATS)
    return f"its outputs {shapes} fit no known format ({known}); see --outputs"


def _options(
    file: str, chosen: FormatGuess, n_classes: int, wishes: Wishes, reasons: list[str]
) -> dict[str, Any]:
    known = FORMATS[chosen.format].options
    for key in wishes.options:
        if key not in known:
            allowed = ", ".join(known) or "none"
            raise ModelRefused(
                file, f"--option {key}: unknown; options of {chosen.format}: {allowed}"
            )
    options = chosen.options | wishes.options
    if chosen.format == "boxes_labels" and "class_numbers" not in options:
        answers = [
            "0     labels count from 0",
            "1     labels count from 1; 0 is the background",
            "coco  the ids of COCO, 1 to 90 (80 classes)",
            "N,N,N the label of each class",
        ]
        question = f"{file} does not state the number of its first class"
        raise Undecided(question, answers, "--class-numbers")
    if chosen.format == "ssd_deltas" and "aspect_ratios" not in options:
        answers = [
            "aspect_ratios=[[2],[2,3]]",
            "steps=[8,16] or grids=[[38,38],[19,19]]",
            "scales=[0.1,0.2,0.3] or min_ratio=0.15 and max_ratio=0.9",
        ]
        question = f"{file} does not contain the positions of its default boxes"
        raise Undecided(question, answers, "--option KEY=JSON")
    numbers = options.get("class_numbers")
    if numbers is not None and len(numbers) != n_classes:
        raise ModelRefused(file, f"{len(numbers)} class numbers for {n_classes} classes")
    listed = [f"{key} = {value}" for key, value in options.items() if key != "layout"]
    if listed:
        reasons.append("options: " + ", ".join(listed))
    return options
