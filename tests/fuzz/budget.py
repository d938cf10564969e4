"""How long a fuzz target runs: some examples in the usual suite, or as many seconds as asked for.

FRAMEGATE_FUZZ_SECONDS=300 pytest tests/fuzz/test_fuzz_models.py -k manifest
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from hypothesis import HealthCheck, settings

SECONDS = float(os.environ.get("FRAMEGATE_FUZZ_SECONDS", "0"))


def fuzz(examples: int = 200) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """Over `@given`: the same examples each time, unless seconds are asked for."""
    limits = settings(
        max_examples=10 * examples if SECONDS else examples,
        deadline=None,
        derandomize=not SECONDS,
        database=None,
        suppress_health_check=list(HealthCheck),
    )

    def bounded(target: Callable[[], None]) -> Callable[[], None]:
        run = limits(target)

        def test() -> None:
            until = time.monotonic() + SECONDS
            run()
            while time.monotonic() < until:
                run()

        test.__name__, test.__doc__ = target.__name__, target.__doc__
        return test

    return bounded
