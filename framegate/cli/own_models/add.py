"""`framegate models add`: add a model of the user's own to the registry."""

from __future__ import annotations

import argparse
import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from framegate.cli.console.arguments import add_registry
from framegate.cli.console.terminal import Meter
from framegate.cli.demo import shipped_clip
from framegate.cli.help import ending
from framegate.pipeline.contracts.errors import ConfigFaults, Exit
from framegate.pipeline.contracts.progress import OnProgress
from framegate.pipeline.contracts.redaction import shown
from framegate.pipeline.system.download import download, is_url
from framegate.pipeline.system.outputs import Inputs, add_overwrite, output_faults

if TYPE_CHECKING:
    from framegate.models.conversion.add import AddRequest
    from framegate.models.conversion.proof import Proof
    from framegate.models.registry.model_folder import ModelFolder

_BUILT_IN: Final = 4  # pictures of the shipped clip that prove a model, if no others are given
_INPUT_KEYS: Final = ("fit", "fill", "colour", "scale", "mean", "std")
# What `add` does without further arguments.
ADD_DEFAULTS: Final[Mapping[str, Any]] = {
    "min_score": 0.25,
    "nms_iou": 0.5,
    "max_boxes": 100,
    "option": [],
    **dict.fromkeys(
        ("version", "provenance", "classes", "format", "outputs", "class_numbers", "size")
    ),
    **dict.fromkeys(_INPUT_KEYS),
}


def register(verbs: Any) -> None:
    """Add the verb to those of `framegate models`."""
    verb = verbs.add_parser(
        "add",
        help="add a model from a file or a URL",
        description="Read ONNX, OpenVINO IR, TorchScript and torch.export programs, in a "
        "process with limits, never pickles. Missing facts are derived from shapes and "
        "printed, or asked for. The model is tested on pictures before it is added. FILE "
        "may also be the folder of a model that was copied from another machine, or an "
        "http:// or https:// URL with --sha256.",
        epilog=ending(
            "framegate models add yolo.onnx --name shop --licence Apache-2.0",
            "framegate models add yolo.onnx --name shop --classes coco --drawn seen.png",
            page="models",
        ),
    )
    verb.set_defaults(command=_add)
    verb.add_argument("file", metavar="FILE", help="model file, or a URL with --sha256")
    verb.add_argument(
        "--sha256", metavar="HEX", help="expected SHA-256 digest of the file; required for a URL"
    )
    verb.add_argument(
        "--name", metavar="NAME", help="name of the model; required unless FILE is a model's folder"
    )
    verb.add_argument(
        "--version", metavar="VERSION", help="version of the model (default: the next number)"
    )
    verb.add_argument("--licence", metavar="TEXT", help="licence of the weights")
    verb.add_argument("--provenance", metavar="TEXT", help="origin of the model")
    _add_outputs(verb)
    _add_input(verb)
    _add_thresholds(verb)
    add_proof(verb)
    add_registry(verb)


def _add_thresholds(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--min-score",
        type=float,
        default=ADD_DEFAULTS["min_score"],
        metavar="S",
        help="confidence threshold (0.25)",
    )
    verb.add_argument(
        "--nms-iou",
        type=float,
        default=ADD_DEFAULTS["nms_iou"],
        metavar="IOU",
        help="IoU threshold of non-maximum suppression (0.5)",
    )
    verb.add_argument(
        "--max-boxes",
        type=int,
        default=ADD_DEFAULTS["max_boxes"],
        metavar="N",
        help="maximum number of boxes per picture (100)",
    )


def add_proof(verb: argparse.ArgumentParser) -> None:
    """Add the pictures on which a model is tested before it is added."""
    verb.add_argument(
        "--picture", type=Path, nargs="+", action="extend", default=[], metavar="FILE",
        help="photographs or videos to test the model on (default: built-in ones)",
    )  # fmt: skip
    verb.add_argument(
        "--drawn", type=Path, metavar="FILE", help="write these pictures with the detected boxes"
    )
    add_overwrite(verb)


def _add_outputs(verb: argparse.ArgumentParser) -> None:
    group = verb.add_argument_group(
        "outputs of the model", "asked for where the file leaves it open"
    )
    group.add_argument(
        "--classes", metavar="A,B|FILE|coco", help="class labels, in the order of the model"
    )
    group.add_argument("--format", metavar="FORMAT", help="format of the outputs")
    group.add_argument(
        "--outputs",
        type=_names,
        metavar="A,B",
        help="names of the outputs, in the order of the format",
    )
    group.add_argument(
        "--class-numbers", metavar="0|1|coco|N,N", help="the model's number for each class"
    )
    group.add_argument(
        "--option", type=_option, action="append", default=[], metavar="KEY=JSON",
        help="option of the format",
    )  # fmt: skip


def _add_input(verb: argparse.ArgumentParser) -> None:
    group = verb.add_argument_group(
        "inputs of the model",
        "(level * scale - mean) / std; by default what is usual for the format",
    )
    group.add_argument("--size", type=_size, metavar="WxH", help="size of the input in pixels")
    group.add_argument(
        "--fit",
        choices=("letterbox", "corner", "stretch"),
        help="how a picture is fitted into the input",
    )
    group.add_argument(
        "--fill", type=int, metavar="GREY", help="grey level around the picture, 0 to 255"
    )
    group.add_argument("--colour", choices=("rgb", "bgr"), help="order of the channels")
    group.add_argument(
        "--scale", type=_number, metavar="S", help="factor for pixel values: a number, or 1/255"
    )
    group.add_argument(
        "--mean", type=_triple, metavar="A,B,C", help="mean to subtract, in the order of --colour"
    )
    group.add_argument(
        "--std",
        type=_triple,
        metavar="A,B,C",
        help="standard deviation to divide by, in the order of --colour",
    )


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(","))


def _option(text: str) -> tuple[str, Any]:
    key, _, value = text.partition("=")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    with _allowed(text, "WIDTHxHEIGHT in pixels, such as 640x480, or one number for both"):
        return int(width), int(height or width)


def _number(text: str) -> float:
    above, _, below = text.partition("/")
    with _allowed(text, "a number, such as 0.5 or 1/255"):
        return float(above) / float(below or 1)


def _triple(text: str) -> tuple[float, float, float]:
    with _allowed(text, "three numbers with commas, such as 123.7,116.3,103.5"):
        first, second, third = map(_number, text.split(","))
        return first, second, third


@contextmanager
def _allowed(text: str, allowed: str) -> Iterator[None]:
    """Let argparse report the allowed values instead of the name of the function that it calls."""
    try:
        yield
    except (ValueError, ZeroDivisionError, argparse.ArgumentTypeError) as error:
        raise argparse.ArgumentTypeError(f"{text!r}: allowed is {allowed}") from error


def _add(parsed: argparse.Namespace) -> Exit:
    """Check the arguments, fetch the file if it is a URL, and add the model."""
    from framegate.stages.detect.options import is_own

    if parsed.name is not None and is_own(parsed.name):
        raise ConfigFaults([f"--name {parsed.name}: this name is reserved for a shipped model"])
    if parsed.drawn is not None:
        read = {f"--picture {picture}": str(picture) for picture in parsed.picture}
        if not is_url(parsed.file):
            read["FILE"] = parsed.file
        if faults := output_faults("--drawn", parsed.drawn, Inputs(read), parsed.overwrite):
            raise ConfigFaults(faults)
    if parsed.sha256 is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", parsed.sha256):
        raise ConfigFaults(
            [f"--sha256 {parsed.sha256}: the digest must have 64 hexadecimal digits"]
        )
    with Meter() as meter:
        if is_url(parsed.file):
            return add_from_url(parsed, meter)
        if parsed.sha256 is not None:
            _check_file(Path(parsed.file), parsed.sha256)
        return _convert(parsed, meter)


def add_from_url(parsed: argparse.Namespace, tell: OnProgress) -> Exit:
    """Download the file of `parsed`, check its digest, and add the model."""
    if parsed.sha256 is None:
        fault = "a URL needs --sha256 HEX, the digest that the publisher of the file states"
        raise ConfigFaults([f"{shown(parsed.file)}: {fault}"])
    with tempfile.TemporaryDirectory(prefix="framegate-fetch-") as folder:
        file = download(parsed.file, parsed.sha256, Path(folder), tell)
        print(f"fetched: {file.stat().st_size / 1e6:.1f} MB, with the expected sha256")
        provenance = parsed.provenance or f"{shown(parsed.file)} (sha256 {parsed.sha256.lower()})"
        fetched = vars(parsed) | {"file": file, "provenance": provenance}
        return _convert(argparse.Namespace(**fetched), tell)


def _check_file(file: Path, sha256: str) -> None:
    from framegate.models.registry.model_folder import sha256_of

    try:
        digest = sha256_of(file)
    except OSError as error:
        raise ConfigFaults([f"{file}: {error.strerror}; --sha256 is of a file"]) from error
    if digest != sha256.lower():
        raise ConfigFaults([f"{file}: the sha256 is {digest}, expected {sha256}"])


def _convert(parsed: argparse.Namespace, tell: OnProgress) -> Exit:
    """Convert the file to a model, prove it on pictures, and put it into the registry."""
    from framegate.models.conversion.add import add, add_folder
    from framegate.models.registry.manifest import MANIFEST
    from framegate.models.registry.registry import Registry
    from framegate.stages.draw.proof_pictures import pictures_of, write_drawn
    from framegate.stages.model_adapters import model_faults

    registry = Registry(parsed.registry)
    with model_faults():
        pictures, origin = pictures_of(parsed.picture), "the pictures given"
        if not pictures:
            pictures = pictures_of([shipped_clip()], _BUILT_IN)
            origin = "frames of the demo's clip"
        if os.path.isfile(Path(parsed.file, MANIFEST)):
            tell("looking at pictures with the model")
            folder, proof = add_folder(Path(parsed.file), registry, pictures)
        else:
            folder, proof = add(_wanted(parsed), registry, pictures, print, tell)
        print(f"proof: {len(pictures)} pictures, {origin}")
        _print_proof(folder, proof)
        if parsed.drawn is not None:
            boxes, classes = proof.boxes["f32"], folder.manifest.classes
            write_drawn(parsed.drawn, pictures, boxes, classes, parsed.overwrite)
            print(f"drawn: {parsed.drawn}")
        print(f"added: {folder.manifest.ref} ({folder.manifest.result_name})")
    return Exit.DONE


def _print_proof(folder: ModelFolder, proof: Proof) -> None:
    from framegate.models.conversion.proof import counts

    boxes = proof.boxes["f32"]
    least = folder.manifest.min_score
    for label, n, low, high in counts(boxes, folder.manifest.classes)[:10]:
        print(f"  {n:>4} {label}, score {low:.2f} to {high:.2f}")
    if not any(map(len, boxes)):
        print(f"  no box above {least:g}; the best score is {proof.best_score:.3f}")
    times = ", ".join(f"{ms:.0f} ms at {precision}" for precision, ms in proof.ms.items())
    print(f"  one picture: {times}, one thread")
    if proof.agreement is not None:
        print(f"  boxes of f32 and bf16 agree to {proof.agreement:.1%}")


def _wanted(parsed: argparse.Namespace) -> AddRequest:
    from framegate.models.conversion.add import AddRequest
    from framegate.models.conversion.proof import Thresholds
    from framegate.models.conversion.sandbox import SandboxLimits
    from framegate.models.conversion.settle import Wishes

    classes = _classes(parsed.classes)
    options = dict(parsed.option)
    if parsed.class_numbers is not None:
        n_classes = None if classes is None else len(classes)
        options["class_numbers"] = _numbers(parsed.class_numbers, n_classes)
    values = {key: getattr(parsed, key) for key in _INPUT_KEYS}
    spec = {key: value for key, value in values.items() if value is not None}
    wishes = Wishes(classes, parsed.format, parsed.outputs, spec, options)
    thresholds = Thresholds(parsed.min_score, parsed.nms_iou, parsed.max_boxes)
    if parsed.name is None:
        raise ConfigFaults(["--name NAME is missing: the name of the new model"])
    return AddRequest(
        Path(parsed.file),
        parsed.name,
        parsed.version,
        parsed.size,
        wishes,
        thresholds,
        parsed.licence,
        parsed.provenance,
        SandboxLimits(),
    )


def _classes(text: str | None) -> tuple[str, ...] | None:
    """Return the labels of COCO, of a file with a label per line, or of the argument itself."""
    from framegate.models import coco

    if text is None:
        return None
    if text == "coco":
        return coco.LABELS
    lines = text.split(",")
    if os.path.isfile(text):  # Path.is_file raises if the list is longer than a file's name
        try:
            lines = Path(text).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as fault:
            raise ConfigFaults([f"--classes {text}: {fault}"]) from fault
    return tuple(line.strip() for line in lines if line.strip())


def _numbers(text: str, n_classes: int | None) -> list[int]:
    from framegate.models import coco

    if text == "coco":
        return list(coco.CATEGORY_IDS)
    try:
        numbers = [int(number) for number in text.split(",")]
    except ValueError as fault:
        raise ConfigFaults([f"--class-numbers must be 0, 1, coco or N,N,N, got {text}"]) from fault
    if len(numbers) == 1 and n_classes is not None:
        return list(range(numbers[0], numbers[0] + n_classes))
    return numbers
