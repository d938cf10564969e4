"""A frame's bytes as the planes of a picture."""

from __future__ import annotations

from typing import cast

import numpy as np

from framegate.models.picture import Matrix, Picture
from framegate.pipeline.contracts.source import Form


def as_picture(pixels: memoryview, form: Form) -> Picture:
    """Return the frame's planes as arrays over the same memory, in the order of source.Frame."""
    rows, columns = -(-form.height // 2), -(-form.width // 2)
    flat = np.frombuffer(pixels, np.uint8)
    luma, half = form.width * form.height, rows * columns
    return Picture(
        flat[:luma].reshape(form.height, form.width),
        flat[luma : luma + half].reshape(rows, columns),
        flat[luma + half : luma + 2 * half].reshape(rows, columns),
        cast(Matrix, form.matrix),
        form.full_range,
    )
