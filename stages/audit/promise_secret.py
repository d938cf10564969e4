"""The secret of a data folder, from which the promise's coins are made."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from framegate.pipeline.errors import ConfigFaults
from framegate.pipeline.promise import promise


def secret_of(folder: Path) -> bytes:
    """32 random bytes, made once: a resumed run draws the same audits. Any process may call it.

    ConfigFaults where the file is damaged.
    """
    path = folder / "promise.secret"
    if not path.exists():
        _make(path)
    secret = path.read_bytes()
    if len(secret) != promise.SECRET_BYTES:
        raise ConfigFaults(
            [
                f"promise: {path} has {len(secret)} bytes; allowed are {promise.SECRET_BYTES}. "
                "Remove it for a new one: no period that it began is certified then"
            ]
        )
    return secret


def _make(path: Path) -> None:
    """All of it or nothing, also if the power fails; who comes second leaves the first one's."""
    written = path.with_suffix(f".{os.getpid()}")
    made = os.open(written, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(made, "wb") as file:
        file.write(os.urandom(promise.SECRET_BYTES))
        file.flush()
        os.fsync(file.fileno())
    with contextlib.suppress(FileExistsError):
        os.link(written, path)
    written.unlink()
