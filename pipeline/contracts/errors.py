"""All errors that Framegate raises on purpose, and the exit codes of its processes."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from enum import IntEnum
from typing import Literal

from framegate.pipeline.contracts.redaction import redacted


class Exit(IntEnum):
    """The exit codes of the command line and of workers. FENCED: another process took over."""

    DONE = 0
    SOURCE_FAILED = 1
    USAGE = 2
    STORE = 3
    FENCED = 75
    STOPPED_TWICE = 130


class FramegateError(Exception):
    """The base class of all errors that Framegate raises on purpose. Its message is for the user.

    The message contains no secret: it may be logged, stored or published.
    """

    exit = Exit.SOURCE_FAILED

    def __init__(self, message: str = "") -> None:
        super().__init__(redacted(message))


class ConfigFaults(FramegateError):
    """The configuration or the command line is wrong; `faults` lists all faults."""

    exit = Exit.USAGE

    def __init__(self, faults: list[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = [redacted(fault) for fault in faults]


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return a hint at the known name that is most similar to an unknown word; "" if none is."""
    names = {name.lower(): name for name in known}
    similar = difflib.get_close_matches(word.lower(), names, n=1)
    if not similar:
        return ""
    return f"; did you mean {names[similar[0]]}?"


class StageRefused(FramegateError):
    """A stage could not be prepared, for example because its model is unreadable."""

    exit = Exit.USAGE


class PackageMissing(FramegateError):
    """A function needs a package that is not installed."""

    exit = Exit.USAGE

    def __init__(self, package: str, caller: str) -> None:
        super().__init__(
            f"{caller}() needs the package {package}, which is not installed; run: "
            f"pip install {package}"
        )
        self.package = package


class ModelTooSlow(FramegateError):
    """A new model takes longer for a picture than `[models] most_ms` allows."""

    exit = Exit.USAGE

    def __init__(self, model: str, taken_ms: float, most_ms: float) -> None:
        super().__init__(
            f"model {model}: {taken_ms:.0f} ms for a picture on this machine; the limit is "
            f"{most_ms:.0f} ms ([models] most_ms)"
        )
        self.model = model
        self.taken_ms = taken_ms
        self.most_ms = most_ms


class ModelNotTaken(FramegateError):
    """A stage refused a new model; the run keeps its models."""

    exit = Exit.USAGE


class DataFolderRefused(FramegateError):
    """The data folder is in use, already used, or cannot be written."""

    exit = Exit.USAGE


class StoreLost(FramegateError):
    """The connection to the store broke; the last write may or may not have been applied."""

    exit = Exit.STORE


class OutOfMeans(StoreLost):
    """The system has no descriptor, memory or thread left for a connection to the store.

    Callers wait for this as for a lost store, although the store itself may be healthy.
    """


class StoreBusy(FramegateError):
    """The store answers but accepts no writes now (full, loading, replicas away): try later."""

    exit = Exit.STORE


class StoreRefused(FramegateError):
    """The store (Redis or Valkey) cannot be used: absent, emptied, wrong version or login."""

    exit = Exit.STORE


class RunRefused(FramegateError):
    """An active run refused a request."""

    def __init__(self, message: str, code: Exit) -> None:
        super().__init__(message)
        self.exit = code


class RunEnded(FramegateError):
    """A run inside a program did not begin, or ended before the program ended it."""

    def __init__(self, message: str, code: Exit) -> None:
        super().__init__(message)
        self.exit = code


class SourceOwned(FramegateError):
    """Another run owns the source."""

    exit = Exit.USAGE


class TakenOver(FramegateError):
    """Another run took the source from this one, which does not take it back by itself."""

    exit = Exit.FENCED


class Fenced(FramegateError):
    """A newer worker replaced this one, which must write nothing more and exit."""

    exit = Exit.FENCED


class FrameLost(FramegateError):
    """The pixels of a frame are missing in shared memory. `final`: they never come back."""

    def __init__(self, message: str, final: bool = False) -> None:
        super().__init__(message)
        self.final = final


class NoReply(FramegateError):
    """A process of this run did not reply: it hangs, is stopped, or has ended (`gone`)."""

    def __init__(self, message: str, gone: bool = False) -> None:
        super().__init__(message)
        self.gone = gone


class RequestRefused(FramegateError):
    """A process of this run refused a request; the message is its reason."""


class MachineRefused(FramegateError):
    """This machine cannot run the pipeline; the message states the reason."""

    exit = Exit.USAGE


class FrameStoreFull(FramegateError):
    """Shared memory has no room for the frame store of a source."""

    exit = Exit.USAGE


class RecordTooNew(FramegateError):
    """A record has a version that this Framegate cannot read."""


class ResultsTrimmed(FramegateError):
    """Results between two positions were removed before this reader saw them."""

    def __init__(self, source: str, after: str, before: str) -> None:
        super().__init__(
            f"source {source}: results after {after} and before {before} were trimmed from the "
            "store before they were read; read sooner or raise store.results_keep"
        )
        self.source = source
        self.after = after
        self.before = before


FaultReason = Literal[
    "missing",
    "permission",
    "not_video",
    "empty",
    "no_video_stream",
    "unsupported_codec",
    "truncated",
    "damaged",
    "changed",
    "no_memory",
    "sizes",
    "died",
    "unreachable",
    "stalled",
    "closed",
    "time_jump",
]


class SourceFault(FramegateError):
    """A source cannot continue, and another attempt would not help.

    The message states the fault, the place and the allowed values.
    """

    def __init__(self, message: str, reason: FaultReason) -> None:
        super().__init__(message)
        self.reason: FaultReason = reason
