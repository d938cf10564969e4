"""Answers of slow models, kept on this machine: who asks again need not wait again."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Final

import msgspec

_KEPT: Final = 20_000  # answers, of some 400 bytes
_KEPT_FILES: Final = 8
_SAVE_EVERY: Final = 25  # answers


class KeptAnswers:
    """Answers, as bytes, by the content that was asked about. One thread.

    file  where those of one model, with all that decides beside the content, are kept; the eight
          newest files of a folder are. Where nothing can be written it is done without
    """

    def __init__(self, file: Path) -> None:
        self._file, self._new = file, 0
        self._known: dict[bytes, bytes] = {}
        with contextlib.suppress(OSError, msgspec.MsgspecError):  # a damaged one: none is known
            self._known = msgspec.msgpack.decode(file.read_bytes(), type=dict[bytes, bytes])

    def find(self, content: bytes) -> bytes | None:
        """The answer, None where it is not known."""
        return self._known.get(content)

    def keep(self, content: bytes, answer: bytes) -> None:
        """Note an answer; now and then all are written."""
        self._known[content] = answer
        self._new += 1
        if self._new % _SAVE_EVERY == 0:
            self._save()

    def close(self) -> None:
        """Write what is new."""
        if self._new:
            self._save()

    def _save(self) -> None:
        """All of it or nothing."""
        kept = dict(list(self._known.items())[-_KEPT:])
        with contextlib.suppress(OSError):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            new = self._file.with_suffix(".new")
            new.write_bytes(msgspec.msgpack.encode(kept))
            new.replace(self._file)
            files = self._file.parent.glob(f"*{self._file.suffix}")
            for old in sorted(files, key=lambda path: -path.stat().st_mtime)[_KEPT_FILES:]:
                old.unlink()
