"""Shared memory that a KServe server on this host reads a request's largest tensor from."""

from __future__ import annotations

import contextlib
import mmap
import os
import secrets
from collections.abc import Callable
from pathlib import Path

_LEAST = 1 << 20
_FOLDER = Path("/dev/shm")


class SharedTensor:
    """A region that grows as it has to; its file is gone once the server has it. One thread.

    register, unregister  the server's: (name, key, bytes) and (name)
    """

    def __init__(
        self, register: Callable[[str, str, int], object], unregister: Callable[[str], object]
    ) -> None:
        """Nothing is registered yet."""
        self._register, self._unregister = register, unregister
        self._memory: mmap.mmap | None = None
        self.name = ""

    def put(self, data: bytes) -> None:
        """`data` is what the server finds at the begin of region `name`. OSError, or the server's
        own error if it cannot read there.
        """
        if self._memory is None or len(self._memory) < len(data):
            self.close()
            self._grow(max(_LEAST, 2 * len(data)))
        assert self._memory is not None
        self._memory[: len(data)] = data

    def close(self) -> None:
        """Let go of it, at the server, too."""
        if self._memory is not None:
            with contextlib.suppress(Exception):  # it may be gone, and its regions with it
                self._unregister(self.name)
            self._memory.close()
            self._memory = None

    def _grow(self, n_bytes: int) -> None:
        self.name = f"framegate-{os.getpid()}-{secrets.token_hex(4)}"
        path = _FOLDER / self.name
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        try:
            os.ftruncate(descriptor, n_bytes)
            memory = mmap.mmap(descriptor, n_bytes)
            self._register(self.name, f"/{self.name}", n_bytes)
            self._memory = memory
        finally:
            os.close(descriptor)
            path.unlink()
