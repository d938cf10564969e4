"""`framegate models add`, `list`, `show`, `remove`; pictures on which a new model is proved."""

from __future__ import annotations

import argparse
import hashlib
import http.client
import itertools
import os
import re
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Final
from urllib.parse import unquote, urlsplit

import cv2
import numpy as np

from framegate.cli.demo import shipped_clip
from framegate.cli.lines import say
from framegate.cli.meter import Tell
from framegate.models import coco
from framegate.models.boxes import Boxes
from framegate.models.conversion.add import AddRequest, add_folder
from framegate.models.conversion.add import add as add_model
from framegate.models.conversion.proof import Proof, Thresholds, counts
from framegate.models.conversion.sandbox import SandboxLimits
from framegate.models.conversion.settle import Wishes
from framegate.models.errors import PictureUnreadable
from framegate.models.formats import FORMATS
from framegate.models.picture import Picture, read_photograph
from framegate.models.preprocess import to_bgr
from framegate.models.registry.model_folder import MANIFEST, Manifest, ModelFolder, sha256_of
from framegate.models.registry.registry import Registry
from framegate.pipeline.contracts.errors import ConfigFaults, Exit, SourceFault
from framegate.pipeline.contracts.redaction import redacted, remember_url, shown
from framegate.pipeline.contracts.results import Object
from framegate.pipeline.system.outputs import Inputs, output_faults, write_whole
from framegate.stages.decode import FileSource
from framegate.stages.detect.options import is_own
from framegate.stages.draw import draw
from framegate.stages.model_faults import model_faults
from framegate.stages.planes import as_picture

# -- Pictures on which a new model is proved: the user's photographs and videos, or built-in ones.


MOST = 8
_EVERY = 50  # frames of a video between two pictures


def pictures_of(files: Sequence[Path]) -> list[Picture]:
    """Up to 8 pictures: each photograph, frames of each video. ConfigFaults."""
    found: list[Picture] = []
    for file in files:
        if not file.is_file():
            raise ConfigFaults([f"--picture {file}: there is no such file"])
        try:
            found.append(read_photograph(file))
        except PictureUnreadable:
            found += _frames(file)
    return found[:MOST]


def built_in() -> tuple[list[Picture], str]:
    """Frames of the shipped clip; and what they are."""
    return _frames(shipped_clip())[:4], "frames of the demo's clip"


def write_drawn(
    file: Path,
    pictures: Sequence[Picture],
    boxes: Sequence[Boxes],
    classes: Sequence[str],
    overwrite: bool = False,
) -> None:
    """All pictures with their boxes, below each other. ConfigFaults if it cannot be written."""
    rows: list[Any] = []
    for picture, found in zip(pictures, boxes, strict=True):
        drawn = draw(picture, _objects(found, classes))
        rows.append(to_bgr(drawn, (drawn.width, drawn.height)))
    wide = max(row.shape[1] for row in rows)
    rows = [
        cv2.copyMakeBorder(row, 0, 4, 0, wide - row.shape[1], cv2.BORDER_CONSTANT) for row in rows
    ]
    try:
        _, coded = cv2.imencode(file.suffix, np.concatenate(rows))
    except cv2.error as error:
        raise ConfigFaults([f"--drawn {file}: allowed are .jpg and .png"]) from error
    write_whole("--drawn", file, coded.tobytes(), overwrite)


def _objects(found: Boxes, classes: Sequence[str]) -> list[Object]:
    return [
        Object(
            None, classes[class_id], class_id, score, (box[0], box[1], box[2], box[3]), "detected"
        )
        for box, score, class_id in zip(
            found.xyxy.tolist(), found.scores.tolist(), found.class_ids.tolist(), strict=True
        )
    ]


def _frames(file: Path) -> list[Picture]:
    try:
        with closing(FileSource(str(file))) as source:
            pictures = []
            for frame in itertools.islice(source.frames(), 0, MOST * _EVERY, _EVERY):
                pixels = bytearray(frame.nbytes)
                frame.write(memoryview(pixels))
                pictures.append(as_picture(memoryview(pixels), frame.form))
            return pictures
    except SourceFault as fault:
        raise ConfigFaults([f"--picture {file}: neither photograph nor video: {fault}"]) from fault


# -- A model from a URL: its digest is known beforehand, so nothing else is trusted.


MOST_BYTES: Final = 4 << 30
MOST_S: Final = 3600.0
_SILENT_S: Final = 30.0
_AT_ONCE: Final = 1 << 18


def is_url(file: str) -> bool:
    """Return whether a model is to be fetched."""
    return file.startswith(("http://", "https://"))


def download(
    url: str,
    sha256: str,
    folder: Path,
    tell: Tell,
    most_bytes: int = MOST_BYTES,
    most_s: float = MOST_S,
) -> Path:
    """Fetch a file into `folder`, under the name that the URL's path ends with; its path.

    sha256  of the file, 64 hexadecimal digits

    It takes no more than `most_bytes` and `most_s`, nor a server that says nothing for 30 s, and
    what has another digest is removed. ConfigFaults, in which the URL has no secrets.
    """
    remember_url(url)
    named = PurePosixPath(unquote(urlsplit(url).path)).name
    path = folder / (re.sub(r"[^\w.-]", "_", named).lstrip(".") or "model")
    try:
        with _opened(url) as answer, path.open("wb") as file:
            found = _copied(answer, file, tell, most_bytes, time.monotonic() + most_s)
    except (OSError, http.client.HTTPException, ValueError) as error:
        path.unlink(missing_ok=True)
        why = getattr(error, "reason", None) or error
        raise ConfigFaults([redacted(f"{shown(url)}: {why}")]) from error
    if found != sha256.lower():
        path.unlink()
        raise ConfigFaults(
            [f"{shown(url)}: its sha256 is {found}, not {sha256}: another file, or a changed one"]
        )
    return path


class _WebOnly(urllib.request.HTTPRedirectHandler):
    """Goes on to other places on the web, and to nothing else."""

    def redirect_request(self, *request: Any) -> urllib.request.Request | None:
        """Return the request at the new place."""
        if not is_url(request[-1]):
            raise ValueError("it leads to a place that is no http:// or https:// URL")
        return super().redirect_request(*request)


def _opened(url: str) -> http.client.HTTPResponse:
    request = urllib.request.Request(url, headers={"User-Agent": "framegate"})
    opener = urllib.request.build_opener(_WebOnly)
    answer: http.client.HTTPResponse = opener.open(request, timeout=_SILENT_S)
    return answer


def _copied(
    answer: http.client.HTTPResponse, file: BinaryIO, tell: Tell, most_bytes: int, until: float
) -> str:
    """Write what comes into a file; its sha256. ValueError for too much, or too little."""
    length = answer.headers.get("Content-Length", "")
    expected = int(length) if re.fullmatch(r"[0-9]{1,18}", length) else None
    if expected is not None and expected > most_bytes:
        raise ValueError(f"{expected} bytes; allowed are {most_bytes}")
    digest, came = hashlib.sha256(), 0
    total = None if expected is None else -(-expected // 1_000_000)
    while part := answer.read1(_AT_ONCE):
        came += len(part)
        if came > most_bytes:
            raise ValueError(f"more than {most_bytes} bytes, which is what is allowed")
        if time.monotonic() > until:
            raise ValueError(f"not done in time: {came} bytes came")
        digest.update(part)
        file.write(part)
        tell("MB of the model", came // 1_000_000, total)
    if expected is not None and came != expected:
        raise ValueError(f"{came} of {expected} bytes came")
    return digest.hexdigest()


# -- The commands.


def add(said: argparse.Namespace, tell: Tell) -> Exit:
    """Convert, settle, prove and put; `said` as `cli.models` reads it."""
    if said.name is not None and is_own(said.name):
        raise ConfigFaults([f"--name {said.name}: it means a model that Framegate brings along"])
    if said.drawn is not None:
        read = {f"--picture {one}": str(one) for one in said.picture}
        read |= {} if is_url(said.file) else {"FILE": said.file}
        if faults := output_faults("--drawn", said.drawn, Inputs(read), said.overwrite):
            raise ConfigFaults(faults)
    if said.sha256 is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", said.sha256):
        raise ConfigFaults([f"--sha256 {said.sha256}: allowed are 64 hexadecimal digits"])
    if is_url(said.file):
        return _add_from_url(said, tell)
    if said.sha256 is not None:
        _check_file(Path(said.file), said.sha256)
    return _add(said, tell)


def _add_from_url(said: argparse.Namespace, tell: Tell) -> Exit:
    if said.sha256 is None:
        fault = "a URL needs --sha256 HEX, the digest that whoever publishes the file says of it"
        raise ConfigFaults([f"{shown(said.file)}: {fault}"])
    with tempfile.TemporaryDirectory(prefix="framegate-fetch-") as folder:
        file = download(said.file, said.sha256, Path(folder), tell)
        print(f"fetched: {file.stat().st_size / 1e6:.1f} MB, with the sha256 that was said")
        provenance = said.provenance or f"{shown(said.file)} (sha256 {said.sha256.lower()})"
        told = vars(said) | {"file": file, "provenance": provenance}
        return _add(argparse.Namespace(**told), tell)


def _check_file(file: Path, sha256: str) -> None:
    try:
        found = sha256_of(file)
    except OSError as error:
        raise ConfigFaults([f"{file}: {error.strerror}; --sha256 is of a file"]) from error
    if found != sha256.lower():
        raise ConfigFaults([f"{file}: its sha256 is {found}, not {sha256}"])


def _add(said: argparse.Namespace, tell: Tell) -> Exit:
    registry = Registry(said.registry)
    with model_faults():
        pictures, origin = pictures_of(said.picture), "the pictures given"
        if not pictures:
            pictures, origin = built_in()
        if os.path.isfile(Path(said.file, MANIFEST)):
            tell("looking at pictures with the model")
            folder, proof = add_folder(Path(said.file), registry, pictures)
        else:
            folder, proof = add_model(_wanted(said), registry, pictures, print, tell)
        print(f"proof: {len(pictures)} pictures, {origin}")
        _print_proof(folder, proof)
        if said.drawn is not None:
            boxes, classes = proof.boxes["f32"], folder.manifest.classes
            write_drawn(said.drawn, pictures, boxes, classes, said.overwrite)
            print(f"drawn: {said.drawn}: look at it")
        print(f"added: {folder.manifest.ref} ({folder.manifest.result_name})")
    return Exit.DONE


def list_models(said: argparse.Namespace) -> Exit:
    """One line a model, the one added last first; then what is broken."""
    models, broken = Registry(said.registry).all_models()
    if not models and not broken:
        print(f"no model in {Registry(said.registry).root}")
    for model in models:
        one = model.manifest
        size = f"{one.input.width}x{one.input.height}"
        line = f"{one.ref:<24} {one.sha256[:8]}  {one.format:<16} {size:>9}  {one.precision}"
        print(f"{line}  {len(one.classes)} classes  {model.n_bytes / 1e6:.1f} MB")
    for fault in broken:
        print(f"broken: {fault.path.name[:8]}: {fault.why}")
    return Exit.DONE if not broken else Exit.SOURCE_FAILED


def show(said: argparse.Namespace) -> Exit:
    """All that the manifest says, and whether the files are what it says."""
    with model_faults():
        model = Registry(said.registry).find(said.ref)
        one = model.manifest
        rows = {
            "model": f"{one.ref}, sha256 {one.sha256}",
            "format": f"{one.format}: {FORMATS[one.format].about}"
            if one.format in FORMATS
            else f"{one.format}, unknown to this Framegate",
            "options": ", ".join(f"{k} = {v}" for k, v in one.options.items()) or "none",
            "outputs": ", ".join(one.outputs),
            "classes": f"{len(one.classes)}: {', '.join(one.classes)}",
            **_tuned(one),
            "input": str(one.input),
            "precision": one.precision,
            "thresholds": f"score {one.min_score:g}, IoU {one.nms_iou:g}, {one.max_boxes} boxes",
            "metrics": ", ".join(f"{k} {v}" for k, v in one.metrics.items()) or "none",
            "licence": one.licence or "not said",
            "provenance": one.provenance or "not said",
            "folder": str(model.path),
        }
        for key, value in rows.items():
            say(value, f"{key:<11}")
        model.verified()
        print(f"{'files':<11}{len(one.files)}, each with the sha256 that the manifest names")
    return Exit.DONE


def _tuned(one: Manifest) -> dict[str, str]:
    """Rows that only a tuned or trained model has."""
    rows = {}
    if one.min_scores:
        scores = ", ".join(f"{label} {score:g}" for label, score in one.min_scores.items())
        rows["answers"] = f"{scores} (least scores; the other classes are off)"
    if one.taken_for:
        rows["merged"] = ", ".join(f"{label} is {into}" for label, into in one.taken_for.items())
    if (learned := one.learned) is not None:
        if learned.struck:
            rows["struck"] = ", ".join(learned.struck)
        spans = ", ".join(
            f"{span.source} {span.until_s - span.from_s:.0f} s" for span in learned.spans
        )
        rows["learned"] = (
            f"{learned.frames} frames ({spans}), {learned.boxes} boxes of {learned.teacher}; "
            f"from {learned.general}"
        )
    return rows


def remove(said: argparse.Namespace) -> Exit:
    """Take one out of the registry."""
    with model_faults():
        gone = Registry(said.registry).remove(said.ref)
        print(f"removed: {gone.manifest.ref} ({gone.manifest.result_name})")
    return Exit.DONE


def _print_proof(folder: ModelFolder, proof: Proof) -> None:
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
        raise ConfigFaults(["--name NAME: what is the model to be called?"])
    return AddRequest(
        Path(said.file), said.name, said.version, said.size, wishes, thresholds, said.licence,
        said.provenance, SandboxLimits(),
    )  # fmt: skip


def _classes(said: str | None) -> tuple[str, ...] | None:
    """Labels: COCO's, one a line of a file, or as they stand."""
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
