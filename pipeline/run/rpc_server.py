"""The run's side of rpc.py: takes commands at a socket in the data folder, and does them."""

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

from framegate.pipeline.contracts.errors import DataFolderRefused, Exit, FramegateError
from framegate.pipeline.contracts.redaction import redacted
from framegate.pipeline.run.rpc import (
    LINE,
    Accepted,
    Add,
    GetCounts,
    GetHttpToken,
    GetSources,
    GetStore,
    HttpToken,
    Refused,
    Remove,
    RollBack,
    RunCommand,
    RunReply,
    SourceList,
    StageCounts,
    StoreUrl,
    Use,
    control_socket,
    refusal,
)
from framegate.pipeline.run.sources import listed_source
from framegate.pipeline.run.supervisor import Supervisor
from framegate.pipeline.telemetry.run_status import RunStatus

log = logging.getLogger(__name__)

Access = tuple[StoreUrl, HttpToken]

_commands = msgspec.json.Decoder(RunCommand)


@asynccontextmanager
async def answered(
    folder: Path, supervisor: Supervisor, store: str, http_token: str = ""
) -> AsyncIterator[None]:
    """Do what commands of the same user ask of the run while the block lasts.

    store       its URL
    http_token  what its HTTP port asks for
    """
    told = (StoreUrl(store), HttpToken(http_token))

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        serving.add(task)
        try:
            with contextlib.suppress(ConnectionError, ValueError):  # it hung up; too long a line
                reply = await _reply_to(await reader.readline(), supervisor, told)
                writer.write(msgspec.json.encode(reply) + b"\n")
                await writer.drain()
        finally:
            writer.close()
            serving.discard(task)

    serving: set[asyncio.Task[None]] = set()
    with control_socket(folder) as at, _listening(at) as listening:
        server = await asyncio.start_unix_server(serve, sock=listening, limit=LINE)
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
    """Listen in a folder that is ours; a socket that a killed run left behind goes."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{at}.new")
        listening.bind(f"{at}.new")
        os.chmod(f"{at}.new", 0o600)  # before it listens: nobody can have connected
        listening.listen()
        os.replace(f"{at}.new", at)  # who finds it is heard
    except OSError as error:
        listening.close()
        what = f"no socket in it: {error.strerror}; allowed is one on a local file system"
        raise DataFolderRefused(f"data folder: {what}") from error
    return listening


async def _reply_to(line: bytes, supervisor: Supervisor, told: Access) -> RunReply:
    try:
        command = _commands.decode(line)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        return Refused(f"the run does not understand: {error}", int(Exit.USAGE))
    try:
        return await _done(command, supervisor, told)
    except FramegateError as error:
        return refusal(error)
    except Exception as error:  # ours: whoever asked is told so, and the run goes on
        log.exception("the run could not do what it was asked")
        what = redacted(f"{type(error).__name__}: {error}")
        return Refused(f"the run could not do it, and continues: {what}", int(Exit.SOURCE_FAILED))


async def _done(command: RunCommand, supervisor: Supervisor, told: Access) -> RunReply:
    match command:
        case Add(sources, take_over):
            await supervisor.add(sources, take_over)
        case Remove(names):
            await supervisor.remove(names)
        case Use(model, names):
            await supervisor.use(model, names)
        case RollBack(names):
            await supervisor.roll_back(names)
        case GetSources():
            has = supervisor.sources
            return SourceList([listed_source(s, has) for s in has.listed()])
        case GetCounts():
            return _counts(await supervisor.status())
        case GetStore():
            return told[0]
        case GetHttpToken():
            return told[1]
    return Accepted()


def _counts(status: RunStatus) -> StageCounts:
    times = status.times
    return StageCounts(
        asks={stage: spent.asks for stage, spent in times.items() if spent.asks is not None},
        cache={stage: spent.cache for stage, spent in times.items() if spent.cache is not None},
        sinks=status.sinks,
        hears=tuple(source.name for source in status.sources if source.hears),
    )
