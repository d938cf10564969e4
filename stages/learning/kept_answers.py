"""Answers of slow models, kept on this machine: who asks again need not wait again."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Final

import msgspec

from framegate.models.detector.precision_trial import locked

_KEPT: Final = 20_000  # answers, of some 400 bytes
_KEPT_FILES: Final = 8
_SAVE_EVERY: Final = 25  # answers


class KeptAnswers:
    """Answers, as bytes, by the content that was asked about. One thread.

    Several processes may keep answers in the same file; it ends up with those of all.

    file  where those of one model, with all that decides beside the content, are kept; the eight
          newest files of a folder are. Where nothing can be written it is done without
    """

    def __init__(self, file: Path) -> None:
        self._file, self._new = file, 0
        self._known = self._written()

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

    def _written(self) -> dict[bytes, bytes]:
        """Return the answers in the file; none if it is missing or damaged."""
        with contextlib.suppress(OSError, msgspec.MsgspecError):
            return msgspec.msgpack.decode(self._file.read_bytes(), type=dict[bytes, bytes])
        return {}

    def _save(self) -> None:
        """Replace the file by one that also has what other processes have written to it."""
        with contextlib.suppress(OSError), locked(self._file):
            self._known = self._written() | self._known
            kept = dict(list(self._known.items())[-_KEPT:])
            new = self._file.with_suffix(".new")
            new.write_bytes(msgspec.msgpack.encode(kept))
            new.replace(self._file)
            self._remove_old_files()

    def _remove_old_files(self) -> None:
        others = set(self._file.parent.glob(f"*{self._file.suffix}")) - {self._file}
        by_age = sorted(others, key=lambda path: path.stat().st_mtime)
        for old in by_age[: max(0, len(others) + 1 - _KEPT_FILES)]:
            old.unlink()
