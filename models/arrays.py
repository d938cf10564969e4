"""Checks of shape and dtype that frozen records run at construction."""

from typing import Any

import numpy as np
import numpy.typing as npt

from framegate.models.errors import ArrayMismatch


def read_only(
    name: str, array: Any, dtype: npt.DTypeLike, shape: tuple[int | None, ...]
) -> npt.NDArray[Any]:
    """A read-only view of `array`; `None` in `shape` stands for any length.

    The caller's own array stays writable: only the view is locked. Raises ArrayMismatch when
    `array` is no numpy array, or its dtype or shape differ. Nothing is converted or copied.
    """
    fits = isinstance(array, np.ndarray) and array.dtype == dtype and array.ndim == len(shape)
    # Spelt out: it runs dozens of times a frame.
    for wanted, have in zip(shape, array.shape if fits else (), strict=False):
        fits = fits and wanted in (None, have)
    if not fits:
        raise ArrayMismatch(name, _words(np.dtype(dtype), shape), _found(array))
    view: npt.NDArray[Any] = array
    if view.flags.writeable:
        view = view.view()
        view.flags.writeable = False
    return view


def _words(dtype: np.dtype[Any], shape: tuple[int | None, ...]) -> str:
    return f"{dtype} ({', '.join('any' if n is None else str(n) for n in shape)})"


def _found(array: Any) -> str:
    return _words(array.dtype, array.shape) if isinstance(array, np.ndarray) else str(type(array))
