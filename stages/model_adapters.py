"""Adapt the engine to `models`, which do not know each other: pixels and errors.

`as_picture` and `picture_of` give a frame as a picture. `model_faults` converts errors of `models`
to errors for the user.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import cast

import numpy as np

from framegate.models import coco
from framegate.models.errors import ModelError, UnknownClass, UnknownModel
from framegate.models.picture import Matrix, Picture
from framegate.pipeline.contracts.errors import ConfigFaults, FramegateError, did_you_mean
from framegate.pipeline.contracts.source import Form, Frame


def as_picture(pixels: memoryview, form: Form) -> Picture:
    """Return the planes Y, Cb and Cr as arrays over `pixels`, whose layout is source.Frame's."""
    flat = np.frombuffer(pixels, np.uint8)
    rows, columns = (form.height + 1) // 2, (form.width + 1) // 2
    luma_end = form.width * form.height
    blue_end = luma_end + rows * columns
    red_end = blue_end + rows * columns
    return Picture(
        flat[:luma_end].reshape(form.height, form.width),
        flat[luma_end:blue_end].reshape(rows, columns),
        flat[blue_end:red_end].reshape(rows, columns),
        cast(Matrix, form.matrix),
        form.full_range,
    )


def picture_of(frame: Frame) -> Picture:
    """Return a decoded frame as a picture in memory of its own."""
    pixels = memoryview(bytearray(frame.nbytes))
    frame.write(pixels)
    return as_picture(pixels, frame.form)


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
