"""Checks of shape and dtype that frozen records run at construction."""

from typing import Any

import numpy as np
import numpy.typing as npt

from models.errors import ArrayMismatch


def read_only(
    name: str, array: Any, dtype: npt.DTypeLike, shape: tuple[int | None, ...]
) -> npt.NDArray[Any]:
    """A read-only view of `array`; `None` in `shape` stands for any length.

    The caller's own array stays writable: only the view is locked. Raises ArrayMismatch when
    `array` is no numpy array, or its dtype or shape differ. Nothing is converted or copied.
    """
    wanted = np.dtype(dtype)
    expected = f"{wanted} {tuple('any' if n is None else n for n in shape)}"
    if not isinstance(array, np.ndarray):
        raise ArrayMismatch(name, expected, type(array).__name__)
    fits = array.ndim == len(shape) and all(
        n is None or n == have for n, have in zip(shape, array.shape, strict=True)
    )
    if array.dtype != wanted or not fits:
        raise ArrayMismatch(name, expected, f"{array.dtype} {array.shape}")
    view = array.view()
    view.flags.writeable = False
    return view
