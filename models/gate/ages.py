"""How old something may get before it is looked at again, so that nothing falls into step."""

from __future__ import annotations

import hashlib
import struct
from typing import Final

_JITTER: Final = 0.2  # to both sides of the mean limit
SHORTEST: Final = (1 - _JITTER) / (1 + _JITTER)  # of the limit: less is never drawn
_KEY_BYTES: Final = 64  # what BLAKE2b takes


def age_limit(seconds: float, key: bytes, position: tuple[int, ...]) -> float:
    """A limit around 5/6 of `seconds`, give or take 20 % of that, never above `seconds`.

    key       at most 64 bytes; of a source, so that several do not look at the same time
    position  whole numbers (64 bits) that name what ages: the same ones draw the same limit

    A keyed hash and no clock or dice, so that a restarted stage decides as it would have. Raises
    ValueError for a longer key.
    """
    if len(key) > _KEY_BYTES:
        raise ValueError(f"key: expected at most {_KEY_BYTES} bytes, found {len(key)}")
    named = struct.pack(f"<{len(position)}q", *position)
    digest = hashlib.blake2b(named, digest_size=8, key=key).digest()
    drawn = int.from_bytes(digest, "little")
    return seconds * (1 - (1 - SHORTEST) * (drawn / 2**64))
