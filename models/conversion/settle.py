"""What a foreign network is, by what its file shows and its user says; nothing is guessed silently.

Pure. A question with one answer is answered and the reason told; one with several is asked.
"""

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from framegate.models.conversion.guess import FormatGuess, Port, candidates, guess_input
from framegate.models.errors import ModelRefused, Undecided
from framegate.models.formats.decoding import Size
from framegate.models.formats.table import FORMATS
from framegate.models.registry.model_folder import InputSpec

_MOST_SHOWN = 12  # formats to choose from


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the user says of a network; None and empty: not said.

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
    """All that is needed to build the network file; `told` says what was taken and why."""

    format: str
    ports: tuple[int, ...]
    options: dict[str, Any]
    classes: tuple[str, ...]
    input: InputSpec
    told: tuple[str, ...]


def settle(
    file: str, ports: Sequence[Port], size: Size, metadata: Mapping[str, str], wishes: Wishes
) -> ImportPlan:
    """Decide format, classes and input of a network.

    size  (width, height) of its input

    Raises Undecided for a question that only the user can answer, ModelRefused for answers that do
    not fit the network.
    """
    told: list[str] = []
    classes = wishes.classes
    if classes is None and (named := names_told(metadata)):
        classes = named
        told.append(f"classes: {len(named)}, as the file's metadata name them")
    chosen = _format(file, ports, size, classes, wishes, told)
    if classes is None:
        n = f"{chosen.n_classes} " if chosen.n_classes else ""
        raise Undecided(f"{file} does not name its {n}classes", ["A,B,C", "FILE", "coco"],
                        "--classes")  # fmt: skip
    options = _options(file, chosen, len(classes), wishes, told)
    spec, words = guess_input(chosen.format, size, wishes.input)
    told.append(f"input: {words}")
    return ImportPlan(chosen.format, chosen.ports, options, classes, spec, tuple(told))


def names_told(metadata: Mapping[str, str]) -> tuple[str, ...] | None:
    """Return Ultralytics' `names`, a table {0: 'person', ...} or a list; None: there are none."""
    try:
        names = ast.literal_eval(metadata["names"])
    except (KeyError, ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    if isinstance(names, dict):
        names = [names[i] for i in range(len(names)) if i in names]
    return tuple(str(name) for name in names) if isinstance(names, list | tuple) and names else None


def _format(
    file: str,
    ports: Sequence[Port],
    size: Size,
    classes: tuple[str, ...] | None,
    wishes: Wishes,
    told: list[str],
) -> FormatGuess:
    picked = _picked(file, ports, wishes.outputs)
    shown = [ports[i] for i in picked]
    n_classes = None if classes is None else len(classes)
    if wishes.format is not None and wishes.format not in FORMATS:
        raise ModelRefused(file, f"--format {wishes.format}: allowed is {', '.join(FORMATS)}")
    fitting = [
        one
        for one in candidates(shown, size, n_classes)
        if wishes.format in (None, one.format)
        and (wishes.outputs is None or one.ports == tuple(range(len(picked))))
    ]
    if (
        not fitting
        and wishes.format
        and (forced := _as_told(shown, size, n_classes, wishes.format))
    ):
        fitting = [forced]
    if not fitting:
        raise ModelRefused(file, _misfit(shown, size, n_classes, wishes))
    if len(fitting) > 1:
        if len({one.format for one in fitting}) == 1:
            orders = [",".join(shown[i].name for i in one.ports) for one in fitting]
            if len(set(orders)) > 1:
                raise Undecided(f"which output of {file} is which?", orders, "--outputs")
        answers = [f"{one.format:<16} {one.why}" for one in fitting[:_MOST_SHOWN]]
        flag = "--format" if wishes.format is None else "--classes"
        raise Undecided(f"the outputs of {file} may be of several formats", answers, flag)
    one = fitting[0]
    told.append(f"format: {one.format}{', as given' if wishes.format else ''}; {one.why}")
    return FormatGuess(
        one.format, tuple(picked[i] for i in one.ports), one.n_classes, one.why, one.options
    )


def _picked(file: str, ports: Sequence[Port], outputs: tuple[str, ...] | None) -> list[int]:
    """Return the indices of the outputs that the user named; None: all."""
    if outputs is None:
        return list(range(len(ports)))
    names = [port.name for port in ports]
    if unknown := [name for name in outputs if name not in names]:
        raise ModelRefused(file, f"--outputs {unknown[0]}: it has {', '.join(names)}")
    return [names.index(name) for name in outputs]


def _as_told(
    ports: Sequence[Port], size: Size, n_classes: int | None, name: str
) -> FormatGuess | None:
    """Return the format that the user insists on, unless it has another number of classes."""
    ranks = FORMATS[name].ranks
    fits = len(ranks) == len(ports) and all(
        port.shape is None or port.own(rank) is not None
        for port, rank in zip(ports, ranks, strict=True)
    )
    if not fits or any(one.format == name for one in candidates(ports, size, None)):
        return None
    return FormatGuess(name, tuple(range(len(ports))), n_classes or 0, "nothing but your word")


def _misfit(ports: Sequence[Port], size: Size, n_classes: int | None, wishes: Wishes) -> str:
    """Say why no format fits."""
    shapes = ", ".join(str(port) for port in ports)
    if n_classes is not None:
        others = candidates(ports, size, None)
        others = [one for one in others if wishes.format in (None, one.format)]
        if others:
            has = " or ".join(f"{one.n_classes} ({one.format})" for one in others)
            return f"{n_classes} classes do not fit its outputs {shapes}: they have {has}"
    if wishes.format is not None:
        needs = FORMATS[wishes.format]
        axes = ", ".join(str(rank) for rank in needs.ranks)
        why = f"{needs.about}; {len(needs.ranks)} outputs of {axes} axes and a batch axis"
        return f"its outputs {shapes} are not what {wishes.format} reads: {why}"
    known = ", ".join(FORMATS)
    return f"its outputs {shapes} are of no format that is read ({known}); see --outputs"


def _options(
    file: str, chosen: FormatGuess, n_classes: int, wishes: Wishes, told: list[str]
) -> dict[str, Any]:
    known = FORMATS[chosen.format].options
    if unknown := [key for key in wishes.options if key not in known]:
        allowed = ", ".join(known) or "none"
        raise ModelRefused(file, f"--option {unknown[0]}: {chosen.format} knows {allowed}")
    options = chosen.options | wishes.options
    if chosen.format == "boxes_labels" and "class_numbers" not in options:
        answers = [
            "0     labels count from 0",
            "1     from 1, 0 being the background",
            "coco  COCO's own ids, 1 to 90 (80 classes)",
            "N,N,N the label of each class",
        ]
        raise Undecided(f"{file} gives labels, and not how they count", answers,
                        "--class-numbers")  # fmt: skip
    if chosen.format == "ssd_deltas" and "aspect_ratios" not in options:
        answers = [
            "aspect_ratios=[[2],[2,3]]",
            "steps=[8,16] or grids=[[38,38],[19,19]]",
            "scales=[0.1,0.2,0.3] or min_ratio=0.15 and max_ratio=0.9",
        ]
        raise Undecided(f"{file} does not say where its default boxes are", answers,
                        "--option KEY=JSON")  # fmt: skip
    numbers = options.get("class_numbers")
    if numbers is not None and len(numbers) != n_classes:
        raise ModelRefused(file, f"{len(numbers)} class numbers for {n_classes} classes")
    if said := {key: value for key, value in options.items() if key != "layout"}:
        told.append("options: " + ", ".join(f"{key} = {value}" for key, value in said.items()))
    return options
