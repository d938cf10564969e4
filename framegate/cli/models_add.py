"""`framegate models add`: add a model of the user's own to the registry."""

from __future__ import annotations

import argparse
import json
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from framegate.cli.arguments import add_registry
from framegate.cli.demo import shipped_clip
from framegate.cli.help import ending
from framegate.cli.terminal import Meter
from framegate.pipeline.contracts.errors import ConfigFaults, Exit
from framegate.pipeline.contracts.progress import OnProgress
from framegate.pipeline.contracts.redaction import shown
from framegate.pipeline.system.download import download, is_url
from framegate.pipeline.system.outputs import Inputs, add_overwrite, output_faults

if TYPE_CHECKING:
    from framegate.models.conversion.add import AddRequest
    from framegate.models.conversion.proof import Proof
    from framegate.models.registry.model_folder import ModelFolder

_BUILT_IN: Final = 4  # pictures of the shipped clip that prove a model, where none are given


def register(verbs: Any) -> None:
    """Add the verb to those of `framegate models`."""
    verb = verbs.add_parser(
        "add",
        help="add a model from a file or a URL",
        description="Read ONNX, OpenVINO IR, TorchScript, torch.export programs and "
        "safetensors of Framegate's networks, in a process with limits, never "
        "pickles. Missing facts are derived from shapes and printed, or asked "
        "for. The model is tested on pictures before it is added. FILE may also "
        "be the folder of a model that was copied from another machine, or an "
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
    verb.add_argument("--name", help="name of the model; required unless FILE is a model's folder")
    verb.add_argument("--version", help="version of the model (default: the next number)")
    verb.add_argument("--licence", metavar="TEXT", help="licence of the weights")
    verb.add_argument("--provenance", metavar="TEXT", help="origin of the model")
    _add_outputs(verb)
    _add_input(verb)
    verb.add_argument(
        "--min-score", type=float, default=0.25, metavar="S", help="confidence threshold (0.25)"
    )
    verb.add_argument(
        "--nms-iou",
        type=float,
        default=0.5,
        metavar="IOU",
        help="IoU threshold of non-maximum suppression (0.5)",
    )
    verb.add_argument(
        "--max-boxes",
        type=int,
        default=100,
        metavar="N",
        help="maximum number of boxes per picture (100)",
    )
    verb.add_argument(
        "--picture", type=Path, nargs="+", action="extend", default=[], metavar="FILE",
        help="photographs or videos to test the model on (default: built-in ones)",
    )  # fmt: skip
    verb.add_argument(
        "--drawn", type=Path, metavar="FILE", help="write these pictures with the detected boxes"
    )
    add_overwrite(verb)
    add_registry(verb)


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
    with _allowed(said, "WIDTHxHEIGHT in pixels, such as 640x480, or one number for both"):
        return int(width), int(height or width)


def _number(said: str) -> float:
    above, _, below = said.partition("/")
    with _allowed(said, "a number, such as 0.5 or 1/255"):
        return float(above) / float(below or 1)


def _triple(said: str) -> tuple[float, float, float]:
    with _allowed(said, "three numbers with commas, such as 123.7,116.3,103.5"):
        first, second, third = map(_number, said.split(","))
        return first, second, third


@contextmanager
def _allowed(said: str, what: str) -> Iterator[None]:
    """Let argparse report the allowed values instead of the name of the function that it calls."""
    try:
        yield
    except (ValueError, ZeroDivisionError, argparse.ArgumentTypeError) as error:
        raise argparse.ArgumentTypeError(f"{said!r}: allowed is {what}") from error


def _add(said: argparse.Namespace) -> Exit:
    """Check the arguments, fetch the file if it is a URL, and add the model."""
    from framegate.stages.detect.options import is_own

    if said.name is not None and is_own(said.name):
        raise ConfigFaults([f"--name {said.name}: this name is reserved for a shipped model"])
    if said.drawn is not None:
        read = {f"--picture {one}": str(one) for one in said.picture}
        read |= {} if is_url(said.file) else {"FILE": said.file}
        if faults := output_faults("--drawn", said.drawn, Inputs(read), said.overwrite):
            raise ConfigFaults(faults)
    if said.sha256 is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", said.sha256):
        raise ConfigFaults([f"--sha256 {said.sha256}: the digest must have 64 hexadecimal digits"])
    with Meter() as meter:
        if is_url(said.file):
            return _add_from_url(said, meter)
        if said.sha256 is not None:
            _check_file(Path(said.file), said.sha256)
        return _convert(said, meter)


def _add_from_url(said: argparse.Namespace, tell: OnProgress) -> Exit:
    if said.sha256 is None:
        fault = "a URL needs --sha256 HEX, the digest that the publisher of the file states"
        raise ConfigFaults([f"{shown(said.file)}: {fault}"])
    with tempfile.TemporaryDirectory(prefix="framegate-fetch-") as folder:
        file = download(said.file, said.sha256, Path(folder), tell)
        print(f"fetched: {file.stat().st_size / 1e6:.1f} MB, with the expected sha256")
        provenance = said.provenance or f"{shown(said.file)} (sha256 {said.sha256.lower()})"
        told = vars(said) | {"file": file, "provenance": provenance}
        return _convert(argparse.Namespace(**told), tell)


def _check_file(file: Path, sha256: str) -> None:
    from framegate.models.registry.model_folder import sha256_of

    try:
        found = sha256_of(file)
    except OSError as error:
        raise ConfigFaults([f"{file}: {error.strerror}; --sha256 is of a file"]) from error
    if found != sha256.lower():
        raise ConfigFaults([f"{file}: the sha256 is {found}, expected {sha256}"])


def _convert(said: argparse.Namespace, tell: OnProgress) -> Exit:
    """Convert the file to a model, prove it on pictures, and put it into the registry."""
    from framegate.models.conversion.add import add, add_folder
    from framegate.models.registry.model_folder import MANIFEST
    from framegate.models.registry.registry import Registry
    from framegate.stages.draw.proof_pictures import pictures_of, write_drawn
    from framegate.stages.model_faults import model_faults

    registry = Registry(said.registry)
    with model_faults():
        pictures, origin = pictures_of(said.picture), "the pictures given"
        if not pictures:
            pictures = pictures_of([shipped_clip()], _BUILT_IN)
            origin = "frames of the demo's clip"
        if os.path.isfile(Path(said.file, MANIFEST)):
            tell("looking at pictures with the model")
            folder, proof = add_folder(Path(said.file), registry, pictures)
        else:
            folder, proof = add(_wanted(said), registry, pictures, print, tell)
        print(f"proof: {len(pictures)} pictures, {origin}")
        _print_proof(folder, proof)
        if said.drawn is not None:
            boxes, classes = proof.boxes["f32"], folder.manifest.classes
            write_drawn(said.drawn, pictures, boxes, classes, said.overwrite)
            print(f"drawn: {said.drawn}")
        print(f"added: {folder.manifest.ref} ({folder.manifest.result_name})")
    return Exit.DONE


def _print_proof(folder: ModelFolder, proof: Proof) -> None:
    from framegate.models.conversion.proof import counts

    boxes = proof.boxes["f32"]
    least = folder.manifest.min_score
    for label, n, low, high in counts(boxes, folder.manifest.classes)[:10]:
        print(f"  {n:>4} {label}, score {low:.2f} to {high:.2f}")
    if not any(len(one) for one in boxes):
        print(f"  no box above {least:g}; the best score is {proof.best_score:.3f}")
    times = ", ".join(f"{ms:.0f} ms at {precision}" for precision, ms in proof.ms.items())
    print(f"  one picture: {times}, one thread")
    if proof.agreement is not None:
        print(f"  boxes of f32 and bf16 agree to {proof.agreement:.1%}")


def _wanted(said: argparse.Namespace) -> AddRequest:
    from framegate.models.conversion.add import AddRequest
    from framegate.models.conversion.proof import Thresholds
    from framegate.models.conversion.sandbox import SandboxLimits
    from framegate.models.conversion.settle import Wishes

    classes = _classes(said.classes)
    options = dict(said.option)
    if said.class_numbers is not None:
        n = None if classes is None else len(classes)
        options["class_numbers"] = _numbers(said.class_numbers, n)
    spec = {
        key: value
        for key in ("fit", "fill", "colour", "scale", "mean", "std")
        if (value := getattr(said, key)) is not None
    }
    wishes = Wishes(classes, said.format, said.outputs, spec, options)
    thresholds = Thresholds(said.min_score, said.nms_iou, said.max_boxes)
    if said.name is None:
        raise ConfigFaults(["--name NAME is missing: the name of the new model"])
    return AddRequest(
        Path(said.file), said.name, said.version, said.size, wishes, thresholds, said.licence,
        said.provenance, SandboxLimits(),
    )  # fmt: skip


def _classes(said: str | None) -> tuple[str, ...] | None:
    """Return labels: COCO's, one a line of a file, or those of the argument."""
    from framegate.models import coco

    if said is None:
        return None
    if said == "coco":
        return coco.LABELS
    lines = said.split(",")
    if os.path.isfile(said):  # a long list is none; Path would raise
        try:
            lines = Path(said).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as fault:
            raise ConfigFaults([f"--classes {said}: {fault}"]) from fault
    return tuple(line.strip() for line in lines if line.strip())


def _numbers(said: str, n_classes: int | None) -> list[int]:
    from framegate.models import coco

    if said == "coco":
        return list(coco.CATEGORY_IDS)
    try:
        numbers = [int(one) for one in said.split(",")]
    except ValueError as fault:
        allowed = "0, 1, coco or N,N,N"
        raise ConfigFaults([f"--class-numbers {said}: allowed is {allowed}"]) from fault
    if len(numbers) == 1 and n_classes is not None:
        return list(range(numbers[0], numbers[0] + n_classes))
    return numbers
