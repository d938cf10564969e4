"""Queries and replies as tensors of a KServe v2 request, for both sides of it.

Inputs of N queries:
    picture    BYTES (N,)     JPEG of planes of the matrix and range told in facts, of any size; or,
                              where it is exact, a frame of FFV1; or base64 of either
    facts      INT32 (N, 11)  see `Facts`
Outputs, M boxes in all:
    counts     INT32 (N,)     boxes of each query; -1: its picture is damaged
    boxes      FP32 (M, 4)    left, top, right, bottom in pixels of the source
    scores     FP32 (M,)      of a query's boxes the highest first
    class_ids  INT32 (M,)     COCO's 80, from 0
    models     BYTES (N,)     models that made each reply, with commas between
    policy     BYTES (1,)     hash of what decides the replies
    took_s     FP32 (1,)      seconds from the request's arrival to its reply
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
    """What the server must know of a picture: whole numbers; flags are 0 or 1.

    width, height             of the source's frame
    is_part                   it shows left, top, right, bottom of it, else all
    matrix, full_range        601 or 709; luma from 0 to 255
    exact                     FFV1
    is_base64                 for servers that take no bytes but text
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
        """Form of the source's frame."""
        matrix = next(name for name, number in _MATRICES.items() if number == self.matrix)
        return Form(self.width, self.height, matrix, bool(self.full_range))

    @property
    def part(self) -> Region | None:
        """The part that the picture shows; None: the whole frame."""
        return (self.left, self.top, self.right, self.bottom) if self.is_part else None


def inputs_of(
    questions: Sequence[Query], pictures: Sequence[bytes], as_text: bool
) -> dict[str, Tensor]:
    """Return the request's inputs; as_text: pictures in base64."""
    coded = [base64.b64encode(picture) for picture in pictures] if as_text else pictures
    facts = [_facts(question, as_text) for question in questions]
    return {"picture": np.array([*coded], np.object_), "facts": np.array(facts, np.int32)}


def _facts(question: Query, is_base64: bool) -> Facts:
    form, part = question.form, question.id.part
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


def asked(inputs: Mapping[str, Tensor]) -> list[tuple[bytes, Facts]]:
    """Return the pictures and facts of a request, at the server. ValueError if it is malformed."""
    if missing := INPUTS.keys() - inputs.keys():
        raise ValueError(f"no {', '.join(sorted(missing))}")
    pictures, facts = inputs["picture"].reshape(-1), inputs["facts"]
    if facts.dtype.kind not in "iu" or not all(isinstance(p, bytes | str) for p in pictures):
        raise ValueError(f"facts of {facts.dtype}, pictures of {inputs['picture'].dtype}")
    if facts.shape != (len(pictures), len(Facts._fields)):
        raise ValueError(f"facts: {facts.shape}; wanted: {(len(pictures), len(Facts._fields))}")
    rows = [Facts(*(int(fact) for fact in row)) for row in facts]
    if strange := [row.matrix for row in rows if row.matrix not in _MATRICES.values()]:
        raise ValueError(f"matrix {strange[0]}; allowed are {sorted(_MATRICES.values())}")
    return [
        (base64.b64decode(picture) if row.is_base64 else _bytes(picture), row)
        for picture, row in zip(pictures, rows, strict=True)
    ]


def outputs_of(seen: Sequence[Predictions | None], policy: str, took_s: float) -> dict[str, Tensor]:
    """Return the request's outputs, at the server; None: a damaged picture."""
    found = [one for one in seen if one is not None]
    return {
        "counts": np.array([-1 if one is None else len(one.boxes) for one in seen], np.int32),
        "boxes": _joined([one.boxes for one in found], np.float32).reshape(-1, 4),
        "scores": _joined([one.scores for one in found], np.float32),
        "class_ids": _joined([one.class_ids for one in found], np.int32),
        "models": np.array([_named(one) for one in seen], np.object_),
        "policy": np.array([policy.encode()], np.object_),
        "took_s": np.array([took_s], np.float32),
    }


def _joined(rows: Sequence[Sequence[Any]], dtype: type[np.generic]) -> Tensor:
    return np.array([value for row in rows for value in row], dtype)


def _named(seen: Predictions | None) -> bytes:
    return b"" if seen is None else ",".join(seen.models).encode()


def answers_of(outputs: Mapping[str, Tensor], n: int, policy: str) -> list[Reply]:
    """Return the replies to n queries. PlaceFailed if malformed, or made by another policy."""
    try:
        found = _bytes(outputs["policy"].reshape(-1)[0]).decode()
        counts = _numbers(outputs["counts"], "iu").reshape(-1).tolist()
        models = [_bytes(names).decode() for names in outputs["models"].reshape(-1)]
        boxes = _numbers(outputs["boxes"], "f").reshape(-1, 4).tolist()
        scores = _numbers(outputs["scores"], "f").reshape(-1).tolist()
        class_ids = _numbers(outputs["class_ids"], "iu").reshape(-1).tolist()
        if not np.isfinite(_numbers(outputs["took_s"], "f")).all():
            raise ValueError("took_s is no number of seconds")
    except (KeyError, IndexError, ValueError, TypeError, AttributeError) as error:
        raise PlaceFailed(f"the server's answer is none: {error!r}") from error
    if found != policy:
        raise PlaceFailed(
            f"the server answers by policy {found[:8]}, expected is {policy[:8]}: it has other "
            "models, precision or thresholds"
        )
    lengths = {len(boxes), len(scores), len(class_ids), sum(max(0, count) for count in counts)}
    if len(counts) != n or len(models) != n or len(lengths) != 1:
        raise PlaceFailed(f"the server's answer is none: {len(counts)} counts for {n} questions")
    answers: list[Reply] = []
    first = 0
    for count, names in zip(counts, models, strict=True):
        if count < 0:
            answers.append(Unanswered("unanswered"))
            continue
        rows = slice(first, first := first + count)
        corners = tuple((x1, y1, x2, y2) for x1, y1, x2, y2 in boxes[rows])
        seen = Predictions(
            corners, tuple(scores[rows]), tuple(class_ids[rows]), tuple(names.split(","))
        )
        answers.append(seen)
    return answers


def _numbers(array: Tensor, kinds: str) -> Tensor:
    """Return the array, if its dtype is of these kinds, as numpy names them. ValueError."""
    if array.dtype.kind not in kinds:
        raise ValueError(f"numbers of {array.dtype}")
    return array


def _bytes(value: Any) -> bytes:
    """Return bytes; a server that speaks JSON sends them as text."""
    if not isinstance(value, bytes | str):
        raise TypeError(f"{type(value).__name__} for bytes")
    return value.encode() if isinstance(value, str) else value
