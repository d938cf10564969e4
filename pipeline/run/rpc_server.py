"""A run's ear for other commands: the socket that asking.py speaks to."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from framegate.pipeline.errors import DataFolderRefused, Exit, FramegateError
from framegate.pipeline.redaction import redacted, shown
from framegate.pipeline.run.rpc import (
    LINE,
    Add,
    Answer,
    Done,
    Listed,
    LookBeside,
    Question,
    Refused,
    Remove,
    RollBack,
    TheCounts,
    TheSources,
    TheStore,
    Use,
    WhatCounts,
    WhatSources,
    control_socket,
    refusal,
)
from framegate.pipeline.run.supervisor import Supervisor

log = logging.getLogger(__name__)

_question = msgspec.json.Decoder(Question)


@asynccontextmanager
async def answered(folder: Path, supervisor: Supervisor, store: str) -> AsyncIterator[None]:
    """Let commands of the same user ask the run while the block lasts. store: its URL."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        serving.add(task)
        try:
            with contextlib.suppress(ConnectionError, ValueError):  # it hung up; too long a line
                question = await reader.readline()
                writer.write(
                    msgspec.json.encode(await _answer(question, supervisor, store)) + b"\n"
                )
                await writer.drain()
        finally:
            writer.close()
            serving.discard(task)

    serving: set[asyncio.Task[None]] = set()
    with control_socket(folder) as at, _listening(at) as ear:
        server = await asyncio.start_unix_server(serve, sock=ear, limit=LINE)
        try:
            yield
        finally:
            server.close()
            for task in serving:
                task.cancel()
            await asyncio.gather(*serving, return_exceptions=True)
            with contextlib.suppress(OSError):
                os.unlink(at)


def _listening(at: str) -> socket.socket:
    """The socket of a folder that is ours; one that a killed run left behind goes."""
    ear = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{at}.new")
        ear.bind(f"{at}.new")
        os.chmod(f"{at}.new", 0o600)  # before it listens: nobody can have connected
        ear.listen()
        os.replace(f"{at}.new", at)  # who finds it is heard
    except OSError as error:
        ear.close()
        what = f"no socket in it: {error.strerror}; allowed is one on a local file system"
        raise DataFolderRefused(f"data folder: {what}") from error
    return ear


async def _answer(said: bytes, supervisor: Supervisor, store: str) -> Answer:
    try:
        question = _question.decode(said)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        return Refused(f"the run does not understand: {error}", int(Exit.USAGE))
    try:
        if isinstance(question, Add):
            await supervisor.add(question.sources, question.take_over)
            return Done()
        if isinstance(question, Remove):
            await supervisor.remove(question.names)
            return Done()
        if isinstance(question, Use):
            await supervisor.use(question.model, question.sources)
            return Done()
        if isinstance(question, RollBack):
            await supervisor.roll_back(question.sources)
            return Done()
        if isinstance(question, LookBeside):
            await supervisor.shadow(question.options)
            return Done()
        if isinstance(question, WhatSources):
            return _listed(supervisor)
        if isinstance(question, WhatCounts):
            return await _counts(supervisor)
        return TheStore(store)
    except FramegateError as error:
        return refusal(error)
    except Exception as error:  # ours: whoever asked is told so, and the run goes on
        log.exception("the run could not do what it was asked")
        what = redacted(f"{type(error).__name__}: {error}")
        return Refused(f"the run failed to do it, and goes on: {what}", int(Exit.SOURCE_FAILED))


def _listed(supervisor: Supervisor) -> TheSources:
    sources, lost = supervisor.sources.listed(), supervisor.sources.lost()
    return TheSources(
        [
            Listed(
                name=source.name,
                place=shown(source.url) if source.url_env is None else f"env:{source.url_env}",
                live=source.live,
                by=source.by,
                removing=source.ending,
                lost=source.name in lost,
                model=source.model,
            )
            for source in sources
        ]
    )


async def _counts(supervisor: Supervisor) -> TheCounts:
    times = (await supervisor.status()).times
    return TheCounts(
        asks={stage: spent.asks for stage, spent in times.items() if spent.asks is not None},
        cache={stage: spent.cache for stage, spent in times.items() if spent.cache is not None},
    )
