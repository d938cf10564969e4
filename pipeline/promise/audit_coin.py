"""Draw the frames of a period that are audited: the coin, its key and its commitment.

The coin cannot be predicted and can be checked later. Each period of each source has a key, which
is derived from a secret. The hash of the key is published before the period begins (the
commitment), the key itself after its end (the opening). A key reveals nothing about the coins of
other periods. The same secret gives the same coins. `period` throws the coin for each served frame.
"""

from __future__ import annotations

import hashlib
from typing import Final

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


def group_key(secret: bytes, source: str) -> bytes:
    """Return the key (32 bytes) of the coins that draw groups of undecoded frames of a source."""
    return _hashed(source.encode(), b"fg-groups", SECRET_BYTES, secret)


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
