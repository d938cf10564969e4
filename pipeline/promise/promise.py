"""The terms of a promise about served results, and the coin that selects the frames to audit.

A period is a number of served frames. At most a share `alpha` of them differs from the output of
the heavy model, with the stated confidence, for each period by itself.
"""

from __future__ import annotations

import hashlib
from dataclasses import astuple, dataclass, field
from functools import cached_property
from typing import Any, Final, Literal

from framegate.pipeline.promise.statistics import share_for

SPARE: Final = 5  # wrong frames that audits may find by default without costing the certificate
LONGEST: Final = 10_000_000


def _limits(least: float, most: float) -> dict[str, Any]:
    return {"least": least, "most": most}


@dataclass(frozen=True)
class Promise:
    """`[promise]`: a limit for the share of frames that differ from the heavy model, shown by
    random audits. It needs [escalate] place. Without this table nothing is promised.

    measure       counts: a frame is wrong if the number of objects of some class differs. off: no
                  promise
    alpha         share of the frames of a period that may be wrong
    confidence    lowest probability that a period which breaks the promise gets no certificate
    frames        served frames of a period. A shorter period needs a larger share of audits
    min_coverage  share of the decoded frames that must be served for a certificate
    audited       share of the frames that are audited. Default: the smallest share with which five
                  wrong frames may be found
    alarm_audits  lowest mean number of audits between two false alarms
    """

    measure: Literal["counts", "off"] = "counts"
    alpha: float = field(default=0.05, metadata=_limits(0.0001, 0.5))
    confidence: float = field(default=0.95, metadata=_limits(0.5, 0.9999))
    frames: int = field(default=36_000, metadata=_limits(1, LONGEST))
    min_coverage: float = field(default=0.9, metadata=_limits(0.0, 1.0))
    audited: float | None = field(default=None, metadata=_limits(1e-6, 1.0))
    alarm_audits: float = field(default=2000.0, metadata=_limits(1.0, 1e9))

    @property
    def delta(self) -> float:
        """Return the maximum probability that a period which breaks the promise is certified."""
        return round(1 - self.confidence, 9)

    @cached_property
    def share(self) -> float:
        """Return the share of audited frames, 0..1: `audited`, or the default that it describes."""
        if self.audited is not None:
            return self.audited
        return share_for(self.frames, self.alpha, self.delta, SPARE)

    @cached_property
    def terms(self) -> bytes:
        """Return a digest of the options, 4 bytes: all frames of a period have the same options."""
        return hashlib.blake2b(repr(astuple(self)).encode(), digest_size=4).digest()


# -- The coin that selects the frames to audit. It cannot be predicted and can be checked later.
# Each period of each source has a key, which is derived from a secret. The hash of the key is
# published before the period begins (the commitment), the key itself after its end (the opening). A
# key reveals nothing about the coins of other periods. The same secret gives the same coins.


SECRET_BYTES: Final = 32  # length of a secret and of a key
_THROWN_BYTES: Final = 8
_FACES: Final = 1 << (8 * _THROWN_BYTES)


def period_key(secret: bytes, source: str, period: int) -> bytes:
    """Return the key (32 bytes) of the coins of a period (0 .. 2**64 - 1) of a source.

    secret  1 to 64 random bytes, to be kept secret: with it, the coins can be predicted. Any other
            length raises ValueError
    """
    if not 1 <= len(secret) <= hashlib.blake2b.MAX_KEY_SIZE:
        raise ValueError(f"secret: expected 1 to 64 bytes, found {len(secret)}")
    named = period.to_bytes(8, "little") + source.encode()
    return _hashed(named, b"fg-period", SECRET_BYTES, secret)


def commitment(key: bytes) -> str:
    """Return the commitment to a period's key, which is published before it: 64 hex digits."""
    return _hashed(key, b"fg-commitment", SECRET_BYTES).hex()


def drawn(key: bytes, index: int, share: float) -> bool:
    """Return whether frame `index` of a period (from 0) is audited, with probability `share`."""
    thrown = _hashed(index.to_bytes(8, "little"), b"fg-coin", _THROWN_BYTES, key)
    return int.from_bytes(thrown, "little") < share * _FACES


def count_drawn(key: bytes, frames: int, share: float) -> int:
    """Return how many of a period's first `frames` frames are audited; a few us for each."""
    return sum(drawn(key, index, share) for index in range(frames))


def _hashed(data: bytes, purpose: bytes, nbytes: int, key: bytes = b"") -> bytes:
    # `person` makes BLAKE2b's hashes for different purposes independent.
    return hashlib.blake2b(data, digest_size=nbytes, key=key, person=purpose).digest()
