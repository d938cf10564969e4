"""What is promised about served results, and how it is watched: the table [promise].

A period is so many served frames. At most `alpha` of them differ from what the heavy model says:
with the stated confidence, for each period by itself.
"""

from __future__ import annotations

import hashlib
from dataclasses import astuple, dataclass, field
from functools import cached_property
from typing import Any, Final, Literal

from framegate.pipeline.promise.exact_binomial import share_for

SPARE: Final = 3  # wrong frames that audits may find by default without costing the certificate
LONGEST: Final = 10_000_000


def _limits(least: float, most: float) -> dict[str, Any]:
    return {"least": least, "most": most}


@dataclass(frozen=True)
class Promise:
    """Options; what they mean is told in pipeline.toml.

    measure  counts: a frame is wrong if it has another number of objects of some class; off: none
    """

    measure: Literal["counts", "off"] = "counts"
    alpha: float = field(default=0.01, metadata=_limits(0.0001, 0.5))
    confidence: float = field(default=0.95, metadata=_limits(0.5, 0.9999))
    frames: int = field(default=36_000, metadata=_limits(1, LONGEST))
    min_coverage: float = field(default=0.9, metadata=_limits(0.0, 1.0))
    audited: float | None = field(default=None, metadata=_limits(1e-6, 1.0))
    alarm_audits: float = field(default=2000.0, metadata=_limits(1.0, 1e9))

    @property
    def delta(self) -> float:
        """How likely a period is certified, at most, whose promise is broken."""
        return round(1 - self.confidence, 9)

    @cached_property
    def share(self) -> float:
        """Of frames audited, 0..1: as said, else the least that forgives some wrong ones."""
        if self.audited is not None:
            return self.audited
        return share_for(self.frames, self.alpha, self.delta, SPARE)

    @cached_property
    def terms(self) -> bytes:
        """Four bytes that differ where the options do: a period keeps to one set of them."""
        return hashlib.blake2b(repr(astuple(self)).encode(), digest_size=4).digest()
