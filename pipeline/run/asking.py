"""What a command asks a run that goes on: over a unix socket in its data folder.

Only the run's user may connect, so that URLs with passwords may go over it; they never go through
the store. One line of JSON each way. The run's side is answering.py.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from framegate.pipeline.counts import AskCounts, CacheCounts
from framegate.pipeline.errors import ConfigFaults, Exit, FramegateError, RunRefused
from framegate.pipeline.run.run_folder import By, RunSource

SOCKET = "control.sock"
LINE = 1 << 20


class Add(msgspec.Struct, frozen=True, tag=True):
    """Serve these sources as well."""

    sources: list[RunSource]
    take_over: bool = False


class Remove(msgspec.Struct, frozen=True, tag=True):
    """Finish what is decoded of these sources, and let them go."""

    names: list[str]


class Use(msgspec.Struct, frozen=True, tag=True):
    """Serve these sources, all for none, by another model."""

    model: str
    sources: list[str]


class RollBack(msgspec.Struct, frozen=True, tag=True):
    """Serve these sources, all for none, by the model that they had before."""

    sources: list[str]


class LookBeside(msgspec.Struct, frozen=True, tag=True):
    """Have another model look at some frames, beside the one that serves; none without options."""

    options: dict[str, Any]


class WhatSources(msgspec.Struct, frozen=True, tag=True):
    """Which sources has the run?"""


class WhatStore(msgspec.Struct, frozen=True, tag=True):
    """Where is its store?"""


class WhatCounts(msgspec.Struct, frozen=True, tag=True):
    """What became of its questions, and of its look-ups?"""


class Done(msgspec.Struct, frozen=True, tag=True):
    """It is done."""


class Refused(msgspec.Struct, frozen=True, tag=True):
    """It is not: why, and the exit code of a command that asked for it."""

    message: str
    exit: int


class Listed(msgspec.Struct, frozen=True, tag=True):
    """One source. place: its path, or its URL without user, password and query.

    model: that was chosen while the run went on
    """

    name: str
    place: str
    live: bool
    by: By
    removing: bool
    lost: bool
    model: str = ""


class TheSources(msgspec.Struct, frozen=True, tag=True):
    """All sources of the run."""

    sources: list[Listed]


class TheStore(msgspec.Struct, frozen=True, tag=True):
    """The store's URL, with its password."""

    url: str


class TheCounts(msgspec.Struct, frozen=True, tag=True):
    """By stage, over all its workers' lives."""

    asks: dict[str, AskCounts]
    cache: dict[str, CacheCounts]


Question = Add | Remove | Use | RollBack | LookBeside | WhatSources | WhatStore | WhatCounts
Answer = Done | Refused | TheSources | TheStore | TheCounts

_answer: msgspec.json.Decoder[Answer] = msgspec.json.Decoder(Answer)


def ask(folder: Path, question: Question, patience_s: float | None = None) -> Answer:
    """The answer of the run in a folder, waited for so long, None: for ever.

    ConfigFaults if no run goes on there; RunRefused with what it says if it refuses, and if it
    does not answer.
    """
    try:
        with (
            socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line,
            control_socket(folder) as at,
        ):
            line.settimeout(patience_s)
            line.connect(at)
            line.sendall(msgspec.json.encode(question) + b"\n")
            with line.makefile("rb") as answers:
                said = answers.readline()
    except TimeoutError:
        raise RunRefused(f"the run in {folder} does not answer", Exit.SOURCE_FAILED) from None
    except OSError as error:
        raise ConfigFaults([f"no run goes on in {folder} on this host: {error.strerror}"]) from None
    if not said:
        raise RunRefused(f"the run in {folder} ended before it was done", Exit.SOURCE_FAILED)
    answer = _answer.decode(said)
    if isinstance(answer, Refused):
        raise RunRefused(answer.message, Exit(answer.exit))
    return answer


def refusal(error: FramegateError) -> Refused:
    """An error as an answer."""
    return Refused(str(error), int(error.exit))


@contextmanager
def control_socket(folder: Path) -> Iterator[str]:
    """The socket's path, short enough for a socket whatever the folder's is."""
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{SOCKET}"
    finally:
        os.close(descriptor)
