"""The run's side of `rpc.py`: a server for commands at a socket in the data folder."""

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

from framegate.pipeline.contracts.errors import (
    ConfigFaults,
    DataFolderRefused,
    Exit,
    FramegateError,
)
from framegate.pipeline.contracts.live_config import (
    ChangeConfig,
    GetConfig,
    ReloadConfig,
    RestoreConfig,
)
from framegate.pipeline.contracts.object_filters import AddFilter, GetFilters, RemoveFilter
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
from framegate.pipeline.run.supervisor import Supervisor
from framegate.pipeline.telemetry.run_status import RunStatus

log = logging.getLogger(__name__)

Access = tuple[StoreUrl, HttpToken]

_commands = msgspec.json.Decoder(RunCommand)


@asynccontextmanager
async def answered(
    folder: Path, supervisor: Supervisor, store: StoreUrl, http_token: str = ""
) -> AsyncIterator[None]:
    """Carry out the commands of the same user for the length of the block.

    store       URL of the store, and the stages of the run
    http_token  access token of the HTTP port; "" if it needs none
    """
    access = (store, HttpToken(http_token))

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        serving.add(task)
        try:
            # ConnectionError: the client has closed. ValueError: its line is too long.
            with contextlib.suppress(ConnectionError, ValueError):
                reply = await _reply_to(await reader.readline(), supervisor, access)
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
    """Listen at a path, and replace the socket of a killed run."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{at}.new")
        listening.bind(f"{at}.new")
        os.chmod(f"{at}.new", 0o600)  # before `listen`, so that no other user can connect
        listening.listen()
        os.replace(f"{at}.new", at)  # a client that finds the path is served
    except OSError as error:
        listening.close()
        raise DataFolderRefused(
            f"data folder: no socket can be made in it: {error.strerror}; use a folder on a local "
            "file system"
        ) from error
    return listening


async def _reply_to(line: bytes, supervisor: Supervisor, access: Access) -> RunReply:
    try:
        command = _commands.decode(line)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        return Refused(f"the run does not understand: {error}", int(Exit.USAGE))
    try:
        return await _carry_out(command, supervisor, access)
    except FramegateError as error:
        return refusal(error)
    except Exception as error:  # a defect of ours: the client gets it, and the run continues
        log.exception("the run could not carry out a command")
        fault = redacted(f"{type(error).__name__}: {error}")
        return Refused(f"the run could not do it, and continues: {fault}", int(Exit.SOURCE_FAILED))


async def _carry_out(command: RunCommand, supervisor: Supervisor, access: Access) -> RunReply:
    match command:
        case Add(sources, take_over):
            _check_no_slot(supervisor)
            await supervisor.add(sources, take_over)
        case Remove(names):
            _check_no_slot(supervisor)
            await supervisor.remove(names)
        case Use(model, names):
            await supervisor.use(model, names)
        case RollBack(names):
            await supervisor.roll_back(names)
        case GetSources():
            active = supervisor.sources
            return SourceList(active.listed(), active.lost(), active.parked())
        case GetFilters() | AddFilter() | RemoveFilter():
            return await supervisor.answer_filters(command)
        case GetConfig() | ChangeConfig() | RestoreConfig() | ReloadConfig():
            return await supervisor.answer_config(command)
        case GetCounts():
            return _counts(await supervisor.status())
        case GetStore():
            return access[0]
        case GetHttpToken():
            return access[1]
    return Accepted()


def _check_no_slot(supervisor: Supervisor) -> None:
    """Raise ConfigFaults for a slot, which would undo a change of its sources at once."""
    slot = supervisor.plan.slot
    if slot:
        raise ConfigFaults(
            [
                f"slot {slot}: the plan of its fleet names its sources; change them in fleet.toml, "
                "then framegate fleet apply fleet.toml --store URL"
            ]
        )


def _counts(status: RunStatus) -> StageCounts:
    times = status.times
    return StageCounts(
        asks={stage: each.asks for stage, each in times.items() if each.asks is not None},
        cache={stage: each.cache for stage, each in times.items() if each.cache is not None},
        sinks=status.sinks,
        hears=tuple(source.name for source in status.sources if source.hears),
    )
