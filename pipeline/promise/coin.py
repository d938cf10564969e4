"""The coin that says which frames are audited: no one can foresee it, everyone can check it later.

Each period of each source has a key of its own, made from a secret. Its hash is told before the
period begins (the commitment), the key itself once the period is over (the opening). A key says
nothing about the coins of other periods. Pure; the same secret throws the same coins again.
"""

from __future__ import annotations

import hashlib
from typing import Final

SECRET_BYTES: Final = 32  # a secret's length, and a key's
_THROWN_BYTES: Final = 8
_FACES: Final = 1 << (8 * _THROWN_BYTES)


def period_key(secret: bytes, source: str, period: int) -> bytes:
    """The 32 bytes that throw the coins of one period (0 .. 2**64 - 1) of a source.

    secret  1 to 64 random bytes that nobody is told. ValueError for other lengths: without a
            secret everybody could throw the coins beforehand.
    """
    if not 1 <= len(secret) <= hashlib.blake2b.MAX_KEY_SIZE:
        raise ValueError(f"secret: expected 1 to 64 bytes, found {len(secret)}")
    named = period.to_bytes(8, "little") + source.encode()
    return _hashed(named, b"fg-period", SECRET_BYTES, secret)


def commitment(key: bytes) -> str:
    """What is told of a period's key before the period begins: 64 hexadecimal digits."""
    return _hashed(key, b"fg-commitment", SECRET_BYTES).hex()


def drawn(key: bytes, index: int, share: float) -> bool:
    """Whether frame `index` (0: the period's first) is audited; true for `share` (0..1) of them."""
    thrown = _hashed(index.to_bytes(8, "little"), b"fg-coin", _THROWN_BYTES, key)
    return int.from_bytes(thrown, "little") < share * _FACES


def count_drawn(key: bytes, frames: int, share: float) -> int:
    """How many of a period's first `frames` frames are audited; some microseconds each."""
    return sum(drawn(key, index, share) for index in range(frames))


def _hashed(data: bytes, purpose: bytes, nbytes: int, key: bytes = b"") -> bytes:
    # BLAKE2b keeps hashes for different purposes apart by its `person`.
    return hashlib.blake2b(data, digest_size=nbytes, key=key, person=purpose).digest()
