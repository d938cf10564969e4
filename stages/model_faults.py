"""What `models` refuses, as errors of the engine: neither package knows the other's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from framegate.models.errors import ModelError
from framegate.pipeline.errors import ConfigFaults, FramegateError


def _config_fault(message: str) -> FramegateError:
    return ConfigFaults([message])


@contextmanager
def model_faults(
    error_of: Callable[[str], FramegateError] = _config_fault,
    refusals: tuple[type[Exception], ...] = (ModelError,),
) -> Iterator[None]:
    """Raise what a model is refused for, inside the block, as an error that a user is shown.

    error_of  makes it of the message; ConfigFaults, unless a caller says otherwise
    refusals  what else means one there, such as OpenVINO's RuntimeError
    """
    try:
        yield
    except refusals as error:
        raise error_of(str(error)) from error
