"""The picture of a frame: views of its bytes as planes."""

from __future__ import annotations

from typing import cast

import numpy as np

from framegate.models.picture import Matrix, Picture
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
