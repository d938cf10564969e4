"""Calls that may block, in threads of their own: neither the event loop nor the exit waits."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from framegate.pipeline.retry import Backoff

P = ParamSpec("P")
T = TypeVar("T")


async def apart(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What the function gives. Unlike with `asyncio.to_thread`, a program whose call hangs can end.

    A caller that is cancelled does not stop the call; what it gives is dropped.
    """
    loop = asyncio.get_running_loop()
    given: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if given.cancelled():
            return
        if error is not None:
            given.set_exception(error)
        else:
            given.set_result(result)  # type: ignore[arg-type]

    def call() -> None:
        result, failed = None, None
        try:
            result = function(*args, **kwargs)
        except BaseException as error:
            failed = error
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, result, failed)

    failures = 0
    while True:
        try:
            threading.Thread(target=call, name="apart", daemon=True).start()
            break
        except RuntimeError:  # no thread for it now: a limit of processes, or no memory
            failures += 1
            await asyncio.sleep(Backoff().delay_s(failures, random.random()))
    return await given
