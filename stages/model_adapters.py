"""Adapt the engine to `models`, which do not know each other: pixels, predictions and errors.

`picture_of` gives a frame as a picture. `as_predictions` and `as_boxes` convert between boxes and
messages. `model_faults` converts errors of `models` to errors for the user.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from framegate.models import coco
from framegate.models.boxes import Boxes
from framegate.models.errors import ModelError, UnknownClass, UnknownModel
from framegate.models.picture import Picture, as_picture
from framegate.pipeline.contracts.errors import ConfigFaults, FramegateError, did_you_mean
from framegate.pipeline.contracts.queries import Predictions
from framegate.pipeline.contracts.source import Frame


def picture_of(frame: Frame) -> Picture:
    """Return a decoded frame as a picture in memory of its own."""
    pixels = memoryview(bytearray(frame.nbytes))
    frame.write(pixels)
    return as_picture(pixels, frame.form)


def as_predictions(boxes: Boxes, models: Sequence[str]) -> Predictions:
    """Return boxes as a message. It is exact: each float32 is a float64."""
    rows = tuple((x1, y1, x2, y2) for x1, y1, x2, y2 in boxes.xyxy.tolist())
    scores = tuple(boxes.scores.tolist())
    class_ids = tuple(boxes.class_ids.tolist())
    return Predictions(rows, scores, class_ids, tuple(models))


def as_boxes(predictions: Predictions) -> Boxes:
    """Return predictions as boxes. Raises ArrayMismatch if their fields do not fit together."""
    xyxy = np.array(predictions.boxes, np.float32).reshape(-1, 4)
    scores = np.array(predictions.scores, np.float32)
    class_ids = np.array(predictions.class_ids, np.int32)
    return Boxes(xyxy, scores, class_ids)


def _config_fault(message: str) -> FramegateError:
    return ConfigFaults([message])


@contextmanager
def model_faults(
    error_of: Callable[[str], FramegateError] = _config_fault,
    refusals: tuple[type[Exception], ...] = (ModelError,),
) -> Iterator[None]:
    """Inside the block, convert each refusal of a model to an error for the user.

    error_of  makes the error from a message; default: ConfigFaults
    refusals  types of errors to convert
    """
    try:
        yield
    except refusals as error:
        raise error_of(f"{error}{_suggestion(error)}") from error


def _suggestion(error: Exception) -> str:
    """Return a similar name for an error about an unknown name, or ""."""
    if isinstance(error, UnknownModel):
        return did_you_mean(error.ref, [*{ref.partition("@")[0] for ref in error.known}])
    if isinstance(error, UnknownClass):
        return did_you_mean(error.names[0], error.labels or coco.LABELS)
    return ""
