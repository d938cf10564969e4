"""`framegate models`: the user's own models, on this machine and in a run that goes on."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from framegate.cli import judge, quantise
from framegate.cli.arguments import add_registry, ending
from framegate.cli.meter import Meter
from framegate.pipeline.config.store import url_said
from framegate.pipeline.contracts.errors import ConfigFaults, Exit
from framegate.pipeline.contracts.keys import SHADOW
from framegate.pipeline.run.rpc import (
    GetSources,
    RollBack,
    SetShadow,
    SourceList,
    Use,
    ask,
    find_run,
)
from framegate.pipeline.store.ownership import side_outputs
from framegate.pipeline.system.loading import ours
from framegate.pipeline.system.outputs import add_overwrite
from framegate.pipeline.system.process import give_way

# -- `framegate models use | rollback`: other models for a run that goes on.


def _register_use(commands: Any) -> None:
    """Add the commands to `framegate models`."""
    use = commands.add_parser(
        "use",
        help="have a run's sources looked at by another model",
        description="The model is loaded, compiled, warmed up and checked beside the one in use; "
        "then it takes over between two frames, none is lost. A model that fails on the way is "
        "refused and changes nothing; so is one that was tuned or trained and that nobody has "
        "judged, or that was worse than the general one. The run keeps to it over each --resume.",
        epilog=ending(
            "framegate models use shop",
            "framegate models use shop@2 --sources gate,door",
            page="models",
        ),
    )
    use.set_defaults(command=_use, as_program=give_way)
    use.add_argument("model", metavar="MODEL", help="NAME, NAME@VERSION, NAME@DIGEST, or light")
    add_registry(use)
    use.add_argument(
        "--unjudged",
        action="store_true",
        help="a model that was tuned or trained serves whatever is known of it",
    )
    back = commands.add_parser(
        "rollback",
        help="go back to the model before",
        description="At once: the model before stays warm for ten minutes.",
        epilog=ending("framegate models rollback", page="models"),
    )
    back.set_defaults(command=_roll_back)
    for command in (use, back):
        command.add_argument(
            "-d", dest="data", type=Path, metavar="DATA", help="the run's data folder"
        )
        command.add_argument(
            "--sources",
            metavar="A,B",
            help="for these only, so that others stay as they are (default: all)",
        )


def named(said: str | None) -> list[str]:
    """Sources of a comma-separated list; none for None."""
    return [name.strip() for name in (said or "").split(",") if name.strip()]


def _use(parsed: argparse.Namespace) -> Exit:
    folder = Path(find_run(parsed.data).folder)
    with Meter() as tell:
        tell("getting the model ready")
        model: str = ours("models_use")(
            parsed.model, folder, parsed.registry, serves=True, unjudged=parsed.unjudged
        )
        tell("waiting for the run to take it")
        ask(folder, Use(model, named(parsed.sources)))
    print(f"in use: {model}")
    return Exit.DONE


def _roll_back(parsed: argparse.Namespace) -> Exit:
    folder = Path(find_run(parsed.data).folder)
    chosen = named(parsed.sources)
    ask(folder, RollBack(chosen))
    listed = ask(folder, GetSources())
    assert isinstance(listed, SourceList), listed
    for source in listed.sources:
        if not chosen or source.name in chosen:
            print(f"{source.name}: rolled back to {source.model or 'the configured model'}")
    return Exit.DONE


# -- `framegate models shadow | disagreements`: another model beside the one that serves.


def _register_shadow(commands: Any) -> None:
    """Add the commands to `framegate models`."""
    _add_shadow(commands)
    told = commands.add_parser(
        "disagreements",
        help="where the other model says something else",
        description="How far the two agree, what the other costs, and the last frames of each "
        "source in which they differ.",
        epilog=ending(
            "framegate models disagreements",
            "framegate models disagreements shop --html differ.html",
            page="models",
        ),
    )
    told.set_defaults(command=_disagreements)
    told.add_argument("model", metavar="MODEL", nargs="?", help="of which (default: the last one)")
    told.add_argument("--html", type=Path, metavar="FILE", help="write a page with pictures")
    add_overwrite(told)
    told.add_argument("--sources", metavar="A,B", help="of these only")
    told.add_argument("-d", dest="data", type=Path, metavar="DATA", help="the run's data folder")
    told.add_argument("--store", metavar="URL", help="the run's store (default: found by the run)")


def _add_shadow(commands: Any) -> None:
    shadow = commands.add_parser(
        "shadow",
        help="have another model look beside the one that serves",
        description="A process of its own looks at some of the frames, steps back behind the run "
        "for the CPU, and keeps the frames in which it says something else; nothing that is served "
        "changes. It ends with the run, or with --off.",
        epilog=ending(
            "framegate models shadow shop --share 0.1",
            "framegate models shadow --off",
            page="models",
        ),
    )
    shadow.set_defaults(command=_shadow, as_program=give_way)
    shadow.add_argument("model", metavar="MODEL", nargs="?", help="as for use")
    shadow.add_argument("--off", action="store_true", help="no longer")
    shadow.add_argument(
        "--share", type=float, default=0.1, metavar="S", help="of frames, at most (0.1)"
    )
    shadow.add_argument(
        "--cpu", type=float, default=0.1, metavar="S", help="of one core, at most (0.1)"
    )
    shadow.add_argument("--sources", metavar="A,B", help="of these only (default: all)")
    add_registry(shadow)
    shadow.add_argument("-d", dest="data", type=Path, metavar="DATA", help="the run's data folder")


def _shadow(parsed: argparse.Namespace) -> Exit:
    if parsed.off is (parsed.model is not None):
        raise ConfigFaults(["shadow: name a model, or say --off"])
    folder = Path(find_run(parsed.data).folder)
    if parsed.off:
        ask(folder, SetShadow({}))
        print("nobody looks beside")
        return Exit.DONE
    for key, most in (("share", 1.0), ("cpu", 64.0)):
        if not 0 < getattr(parsed, key) <= most:
            raise ConfigFaults([f"--{key} {getattr(parsed, key)}: allowed is up to {most:g}"])
    with Meter() as tell:
        tell("getting the model ready")
        model: str = ours("models_use")(parsed.model, folder, parsed.registry)
        said = {"model": model, "share": parsed.share, "cpu": parsed.cpu}
        tell("waiting for the run to take it")
        ask(folder, SetShadow({**said, "sources": named(parsed.sources)}))
    print(f"looks beside: {model}")
    return Exit.DONE


def _disagreements(parsed: argparse.Namespace) -> Exit:
    url = url_said(parsed.store) or find_run(parsed.data).store
    said = side_outputs(url, SHADOW, named(parsed.sources))
    ours("models_disagreements")(said, parsed.model, parsed.html, parsed.overwrite)
    return Exit.DONE


def register(commands: Any) -> None:
    """Add the command and its sub-commands to the command line."""
    command = commands.add_parser(
        "models",
        help="add models of your own, list, show and remove them",
        description="Models lie in a folder of this machine, each under the digest of all that it "
        "is. Nothing is fetched but what a URL names, with its digest.",
        epilog=ending(
            "framegate models add yolo.onnx --name shop",
            "framegate models list",
            "framegate models use shop",
            page="models",
        ),
    )
    verbs = command.add_subparsers(required=True, metavar="VERB")
    _add_add(verbs)
    listed = verbs.add_parser(
        "list",
        help="the models of this machine, the one added last first",
        description="The models of this machine, the one added last first; then what is broken.",
        epilog=ending("framegate models list", page="models"),
    )
    listed.set_defaults(command=_list)
    for name, what, run in (
        ("show", "all that is known of a model; hashes its files", _show),
        ("remove", "take a model out of the registry", _remove),
    ):
        verb = verbs.add_parser(
            name,
            help=what,
            description=what.capitalize() + ".",
            epilog=ending(f"framegate models {name} shop", page="models"),
        )
        verb.set_defaults(command=run)
        verb.add_argument("ref", metavar="REF", help="NAME, NAME@VERSION or NAME@SHA8")
        add_registry(verb)
    add_registry(listed)
    _register_use(verbs)
    _register_shadow(verbs)
    judge.register(verbs)
    quantise.register(verbs)


def _add_add(verbs: Any) -> None:
    verb = verbs.add_parser(
        "add",
        help="add a model from a file or a URL",
        description="Reads ONNX, OpenVINO IR, TorchScript, torch.export programs and the "
        "safetensors of our own networks, in a process of its own with limits; never a pickle. "
        "What the file does not say is taken from its shapes and told, or asked for. The model is "
        "proved on pictures before it is added. FILE may also be the folder of a model that was "
        "copied from another machine, or an http:// or https:// URL, with --sha256.",
        epilog=ending(
            "framegate models add yolo.onnx --name shop --licence Apache-2.0",
            "framegate models add yolo.onnx --name shop --classes coco --drawn seen.png",
            page="models",
        ),
    )
    verb.set_defaults(command=_add)
    verb.add_argument("file", metavar="FILE", help="the model: a file, or a URL with --sha256")
    verb.add_argument("--sha256", metavar="HEX", help="that the file must have; needed for a URL")
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
    add_registry(verb)


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
    with _allowed(said, "WIDTHxHEIGHT in pixels, as 640x480, or one number for both"):
        return int(width), int(height or width)


def _number(said: str) -> float:
    above, _, below = said.partition("/")
    with _allowed(said, "a number, as 0.5 or 1/255"):
        return float(above) / float(below or 1)


def _triple(said: str) -> tuple[float, float, float]:
    with _allowed(said, "three numbers with commas between, as 123.7,116.3,103.5"):
        first, second, third = map(_number, said.split(","))
        return first, second, third


@contextmanager
def _allowed(said: str, what: str) -> Iterator[None]:
    """Have argparse say what is allowed, in place of the name of the function that it calls."""
    try:
        yield
    except (ValueError, ZeroDivisionError, argparse.ArgumentTypeError) as error:
        raise argparse.ArgumentTypeError(f"{said!r}: allowed is {what}") from error


def _add(parsed: argparse.Namespace) -> Exit:
    with Meter() as tell:
        done: Exit = ours("models_add")(parsed, tell)
    return done


def _list(parsed: argparse.Namespace) -> Exit:
    done: Exit = ours("models_list")(parsed)
    return done


def _show(parsed: argparse.Namespace) -> Exit:
    done: Exit = ours("models_show")(parsed)
    return done


def _remove(parsed: argparse.Namespace) -> Exit:
    done: Exit = ours("models_remove")(parsed)
    return done
