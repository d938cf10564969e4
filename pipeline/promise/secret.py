"""The secret of a data folder: the key of the coins that draw audits."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from pathlib import Path

from framegate.pipeline.contracts.errors import ConfigFaults
from framegate.pipeline.promise import audit_coin as coin


def secret_of(folder: Path) -> bytes:
    """Return the 32 secret bytes of a data folder, made on first use. Any process and
    thread.

    They are stored, so that a resumed run draws the same audits. Raises ConfigFaults for a damaged
    file.
    """
    path = folder / "promise.secret"
    if not path.exists():
        _make(path)
    secret = path.read_bytes()
    if len(secret) != coin.SECRET_BYTES:
        raise ConfigFaults(
            [
                f"promise: {path} has {len(secret)} bytes; must be {coin.SECRET_BYTES}. Remove the "
                "file to get a new secret; open periods then get no certificate"
            ]
        )
    return secret


def share_secret(folder: Path, shared: str) -> bool:
    """Make the secret of a data folder that of its fleet, before any worker starts. Return whether
    it replaced another secret; open periods then get no certificate.

    shared  the same text on all hosts. A source that moves then keeps its coins and its period
    """
    path = folder / "promise.secret"
    secret = hashlib.blake2b(
        shared.encode(), digest_size=coin.SECRET_BYTES, person=b"fg-fleet"
    ).digest()
    if path.exists() and path.read_bytes() == secret:
        return False
    had_another = path.exists()
    path.unlink(missing_ok=True)
    _make(path, secret)
    return had_another


def _make(path: Path, secret: bytes | None = None) -> None:
    """Write the secret completely or not at all. If two threads or processes do so, the first one
    wins.

    secret  None: a random one
    """
    # A name for this call alone: each decoder thread of a worker may be the first to need it.
    descriptor, written = tempfile.mkstemp(prefix=f"{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secret or os.urandom(coin.SECRET_BYTES))
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(written, path)
    finally:
        os.unlink(written)
