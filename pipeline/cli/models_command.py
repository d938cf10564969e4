"""`framegate models`: the user's own models, on this machine."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from framegate.pipeline.cli import models_quantise, models_shadow, models_use
from framegate.pipeline.errors import Exit
from framegate.pipeline.loading import load
from framegate.pipeline.outputs import add_overwrite

Triple = tuple[float, float, float]

_STAGE = "framegate.stages.commands.registering:"


def register(commands: Any) -> None:
    """Add the command and its sub-commands to the command line."""
    command = commands.add_parser(
        "models",
        help="add models of your own, list, show and remove them",
        description="Models lie in a folder of this machine, each under the digest of all that it "
        "is. Nothing is fetched from anywhere.",
    )
    verbs = command.add_subparsers(required=True, metavar="VERB")
    _add_add(verbs)
    listed = verbs.add_parser("list", help="the models of this machine, the one added last first")
    listed.set_defaults(command=_list)
    for name, what, run in (
        ("show", "all that is known of a model; hashes its files", _show),
        ("remove", "take a model out of the registry", _remove),
    ):
        verb = verbs.add_parser(name, help=what, description=what.capitalize() + ".")
        verb.set_defaults(command=run)
        verb.add_argument("ref", metavar="REF", help="NAME, NAME@VERSION or NAME@SHA8")
        _add_registry(verb)
    _add_registry(listed)
    models_use.register(verbs)
    models_shadow.register(verbs)
    models_quantise.register(verbs)


def _add_add(verbs: Any) -> None:
    verb = verbs.add_parser(
        "add",
        help="add a model from a file",
        description="Reads ONNX, OpenVINO IR, TorchScript, torch.export programs and the "
        "safetensors of our own networks, in a process of its own with limits; never a pickle. "
        "What the file does not say is taken from its shapes and told, or asked for. The model is "
        "proved on pictures before it is added. FILE may also be the folder of a model that was "
        "copied from another machine.",
    )
    verb.set_defaults(command=_add)
    verb.add_argument("file", metavar="FILE", help="the model")
    verb.add_argument("--name", help="of the model; needed unless FILE is a model's folder")
    verb.add_argument("--version", help="of the model (default: the next number)")
    verb.add_argument("--licence", metavar="TEXT", help="of its weights")
    verb.add_argument("--provenance", metavar="TEXT", help="where it is from")
    _add_outputs(verb)
    _add_input(verb)
    verb.add_argument("--min-score", type=float, default=0.25, metavar="S", help="(0.25)")
    verb.add_argument("--nms-iou", type=float, default=0.5, metavar="IOU", help="(0.5)")
    verb.add_argument("--max-boxes", type=int, default=100, metavar="N", help="a picture (100)")
    verb.add_argument(
        "--picture", type=Path, nargs="+", action="extend", default=[], metavar="FILE",
        help="photographs or videos on which it is proved (default: built-in ones)",
    )  # fmt: skip
    verb.add_argument("--drawn", type=Path, metavar="FILE", help="these with the boxes found")
    add_overwrite(verb)
    _add_registry(verb)


def _add_outputs(verb: argparse.ArgumentParser) -> None:
    group = verb.add_argument_group("what it says", "asked for where the file leaves it open")
    group.add_argument("--classes", metavar="A,B|FILE|coco", help="labels, in its order")
    group.add_argument("--format", metavar="FORMAT", help="of its outputs")
    group.add_argument("--outputs", type=_names, metavar="A,B", help="names, in that order")
    group.add_argument("--class-numbers", metavar="0|1|coco|N,N", help="its number of each class")
    group.add_argument(
        "--option", type=_option, action="append", default=[], metavar="KEY=JSON",
        help="of the format",
    )  # fmt: skip


def _add_input(verb: argparse.ArgumentParser) -> None:
    group = verb.add_argument_group(
        "what it takes", "(level * scale - mean) / std; by default what is usual for the format"
    )
    group.add_argument("--size", type=_size, metavar="WxH", help="of its input, pixels")
    group.add_argument("--fit", choices=("letterbox", "corner", "stretch"), help="of a picture")
    group.add_argument("--fill", type=int, metavar="GREY", help="around it, 0 to 255")
    group.add_argument("--colour", choices=("rgb", "bgr"), help="order of its channels")
    group.add_argument("--scale", type=_number, metavar="S", help="a number, or 1/255")
    group.add_argument("--mean", type=_triple, metavar="A,B,C", help="in the order of --colour")
    group.add_argument("--std", type=_triple, metavar="A,B,C", help="likewise")


def _add_registry(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--registry", type=Path, metavar="DIR",
        help="of models (default: $XDG_DATA_HOME/framegate/models, or below ~/.local/share)",
    )  # fmt: skip


def _names(said: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in said.split(","))


def _option(said: str) -> tuple[str, Any]:
    key, _, value = said.partition("=")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


def _size(said: str) -> tuple[int, int]:
    width, _, height = said.partition("x")
    return int(width), int(height or width)


def _number(said: str) -> float:
    above, _, below = said.partition("/")
    return float(above) / float(below or 1)


def _triple(said: str) -> Triple:
    first, second, third = (_number(one) for one in said.split(","))
    return first, second, third


def _add(parsed: argparse.Namespace) -> Exit:
    done: Exit = load(_STAGE + "add")(parsed)
    return done


def _list(parsed: argparse.Namespace) -> Exit:
    done: Exit = load(_STAGE + "list_models")(parsed)
    return done


def _show(parsed: argparse.Namespace) -> Exit:
    done: Exit = load(_STAGE + "show")(parsed)
    return done


def _remove(parsed: argparse.Namespace) -> Exit:
    done: Exit = load(_STAGE + "remove")(parsed)
    return done
