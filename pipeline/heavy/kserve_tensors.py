"""Encode queries and replies as tensors of a KServe v2 request, on the client and the server.

Inputs of N queries:
    picture    BYTES (N,)     JPEG of any size, with planes of the matrix and range in facts; if
                              exact, a frame of FFV1; either may be in base64
    facts      INT32 (N, 11)  see `Facts`
Outputs with M boxes of all queries together:
    counts     INT32 (N,)     number of boxes of each query; -1: its picture is damaged
    boxes      FP32 (M, 4)    left, top, right, bottom in pixels of the source
    scores     FP32 (M,)      0..1; within a query the highest first
    class_ids  INT32 (M,)     COCO's 80 classes, from 0
    models     BYTES (N,)     models that made each reply, separated by commas
    policy     BYTES (1,)     hash of the models and settings that determine the replies
    took_s     FP32 (1,)      seconds from the arrival of the request to its reply
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from framegate.pipeline.contracts.queries import (
    PlaceFailed,
    Predictions,
    Query,
    Region,
    Reply,
    Unanswered,
)
from framegate.pipeline.contracts.source import Form

Tensor = npt.NDArray[Any]
INPUTS = {"picture": "BYTES", "facts": "INT32"}
OUTPUTS = {
    "counts": "INT32",
    "boxes": "FP32",
    "scores": "FP32",
    "class_ids": "INT32",
    "models": "BYTES",
    "policy": "BYTES",
    "took_s": "FP32",
}
_MATRICES = {"bt601": 601, "bt709": 709}


class Facts(NamedTuple):
    """The description of a picture for the server: whole numbers; flags are 0 or 1.

    width, height             size of the source's frame
    is_part                   flag: the picture shows left, top, right, bottom; else the whole frame
    matrix                    601 or 709
    full_range                flag: luma is 0..255
    exact                     flag: the picture is FFV1
    is_base64                 flag: the picture is in base64, for servers that accept only text
    """

    width: int
    height: int
    is_part: int
    left: int
    top: int
    right: int
    bottom: int
    matrix: int
    full_range: int
    exact: int
    is_base64: int

    @property
    def form(self) -> Form:
        """Return the form of the source's frame."""
        matrix = next(name for name, number in _MATRICES.items() if number == self.matrix)
        return Form(self.width, self.height, matrix, bool(self.full_range))

    @property
    def part(self) -> Region | None:
        """Return the region that the picture shows; None: the whole frame."""
        if not self.is_part:
            return None
        return (self.left, self.top, self.right, self.bottom)


def inputs_of(
    questions: Sequence[Query], pictures: Sequence[bytes], as_text: bool
) -> dict[str, Tensor]:
    """Return the inputs of a request. as_text: encode pictures in base64."""
    if as_text:
        pictures = [base64.b64encode(picture) for picture in pictures]
    facts = [_facts(question, as_text) for question in questions]
    return {"picture": np.array([*pictures], np.object_), "facts": np.array(facts, np.int32)}


def _facts(question: Query, is_base64: bool) -> Facts:
    form = question.form
    part = question.id.part
    return Facts(
        form.width,
        form.height,
        int(part is not None),
        *(part or (0, 0, form.width, form.height)),
        _MATRICES[form.matrix],
        int(form.full_range),
        int(question.id.exact),
        int(is_base64),
    )


def pictures_of(inputs: Mapping[str, Tensor]) -> list[tuple[bytes, Facts]]:
    """Return the pictures and facts of a request. Raises ValueError if it is malformed.

    Called by the server.
    """
    missing = INPUTS.keys() - inputs.keys()
    if missing:
        raise ValueError(f"missing inputs: {', '.join(sorted(missing))}")
    pictures = inputs["picture"].reshape(-1)
    facts = inputs["facts"]
    if facts.dtype.kind not in "iu" or not all(isinstance(p, bytes | str) for p in pictures):
        raise ValueError(
            f"facts of {facts.dtype} and pictures of {inputs['picture'].dtype}; expected are "
            "integers and bytes"
        )
    shape = (len(pictures), len(Facts._fields))
    if facts.shape != shape:
        raise ValueError(f"facts have the shape {facts.shape}; expected is {shape}")
    decoded: list[tuple[bytes, Facts]] = []
    for picture, row in zip(pictures, facts, strict=True):
        described = Facts(*(int(fact) for fact in row))
        if described.matrix not in _MATRICES.values():
            allowed = sorted(_MATRICES.values())
            raise ValueError(f"matrix {described.matrix}; allowed are {allowed}")
        if described.is_base64:
            decoded.append((base64.b64decode(picture), described))
        else:
            decoded.append((_bytes(picture), described))
    return decoded


def outputs_of(seen: Sequence[Predictions | None], policy: str, took_s: float) -> dict[str, Tensor]:
    """Return the outputs of a request. Called by the server.

    seen  predictions for each picture; None: the picture is damaged
    """
    counts: list[int] = []
    models: list[bytes] = []
    boxes: list[tuple[float, float, float, float]] = []
    scores: list[float] = []
    class_ids: list[int] = []
    for predictions in seen:
        if predictions is None:
            counts.append(-1)
            models.append(b"")
            continue
        counts.append(len(predictions.boxes))
        models.append(",".join(predictions.models).encode())
        boxes += predictions.boxes
        scores += predictions.scores
        class_ids += predictions.class_ids
    return {
        "counts": np.array(counts, np.int32),
        "boxes": np.array(boxes, np.float32).reshape(-1, 4),
        "scores": np.array(scores, np.float32),
        "class_ids": np.array(class_ids, np.int32),
        "models": np.array(models, np.object_),
        "policy": np.array([policy.encode()], np.object_),
        "took_s": np.array([took_s], np.float32),
    }


def answers_of(outputs: Mapping[str, Tensor], n: int, policy: str) -> list[Reply]:
    """Return the replies to n queries.

    policy  the required policy
    Raises PlaceFailed if the outputs are malformed or another policy made them.
    """
    try:
        reported = _bytes(outputs["policy"].reshape(-1)[0]).decode()
        counts = _numbers(outputs["counts"], "iu").reshape(-1).tolist()
        models = [_bytes(names).decode() for names in outputs["models"].reshape(-1)]
        boxes = _numbers(outputs["boxes"], "f").reshape(-1, 4).tolist()
        scores = _numbers(outputs["scores"], "f").reshape(-1).tolist()
        class_ids = _numbers(outputs["class_ids"], "iu").reshape(-1).tolist()
        if not np.isfinite(_numbers(outputs["took_s"], "f")).all():
            raise ValueError("took_s is not finite")
    except (KeyError, IndexError, ValueError, TypeError, AttributeError) as error:
        raise PlaceFailed(f"the server's answer is malformed: {error!r}") from error
    if reported != policy:
        raise PlaceFailed(
            f"the server has policy {reported[:8]}, expected is {policy[:8]}: its models, "
            "precision or thresholds differ"
        )
    lengths = {len(boxes), len(scores), len(class_ids), sum(max(0, count) for count in counts)}
    if len(counts) != n or len(models) != n or len(lengths) != 1:
        raise PlaceFailed(
            f"the server's answer is malformed: {len(counts)} counts, {len(models)} models and "
            f"{len(boxes)} boxes for {n} questions"
        )
    answers: list[Reply] = []
    first = 0
    for count, names in zip(counts, models, strict=True):
        if count < 0:
            answers.append(Unanswered("unanswered"))
            continue
        rows = slice(first, first + count)
        first += count
        corners = tuple((x1, y1, x2, y2) for x1, y1, x2, y2 in boxes[rows])
        seen = Predictions(
            corners, tuple(scores[rows]), tuple(class_ids[rows]), tuple(names.split(","))
        )
        answers.append(seen)
    return answers


def _numbers(array: Tensor, kinds: str) -> Tensor:
    """Return the array. Raises ValueError if numpy's kind of its dtype is not among `kinds`."""
    if array.dtype.kind not in kinds:
        raise ValueError(f"the dtype {array.dtype}")
    return array


def _bytes(value: Any) -> bytes:
    """Return bytes; servers that use JSON send them as text. Raises TypeError."""
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, bytes):
        return value
    raise TypeError(f"{type(value).__name__} instead of bytes")
