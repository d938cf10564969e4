"""The function library: the server's side of the protocol, under a name that changes with its code.

The names of the library and of its functions carry a digest of the code (hop.lua and memo.lua).
Another version of Framegate therefore loads another library beside this one, and neither changes
how the other's calls are read. A server keeps each library for UNUSED_S after a run last used it.
"""

from __future__ import annotations

import functools
import hashlib
from importlib.resources import files
from typing import Any, NamedTuple

import redis

from framegate.pipeline.contracts import keys

FAMILY = "framegate_"
UNUSED_S = 30 * 86400
_DIGITS = 10


class Library(NamedTuple):
    """A function library.

    name    of the library
    prefix  of the names of its functions
    code    as FUNCTION LOAD takes it
    """

    name: str
    prefix: str
    code: str


def make_library(body: str) -> Library:
    """Return the library of this Lua code, which registers its functions as PREFIX .. name."""
    digest = hashlib.sha256(body.encode()).hexdigest()[:_DIGITS]
    name, prefix = f"{FAMILY}{digest}", f"fg_{digest}_"
    return Library(name, prefix, f"#!lua name={name}\nlocal PREFIX = '{prefix}'\n{body}")


def library_body() -> str:
    """Return the Lua code of this version's library, without the lines that name it."""
    folder = files("framegate.pipeline.store")
    return "\n".join(folder.joinpath(name).read_text() for name in ("hop.lua", "memo.lua"))


@functools.cache
def library() -> Library:
    """Return this version's library."""
    return make_library(library_body())


@functools.cache
def function(name: str) -> str:
    """Return the name under which a function of this version's library is called."""
    return library().prefix + name


def load_library(server: Any) -> None:
    """Load this version's library into a server, unless it is there; others stay as they are."""
    if server.function_list(library=library().name):
        return
    try:
        server.function_load(library().code)
    except redis.ResponseError:  # another run has loaded it just now
        if not server.function_list(library=library().name):
            raise


def note_use(client: Any) -> int:
    """Store that this version's library is in use; return the server's time in UNIX seconds."""
    now = int(client.time()[0])
    client.hset(keys.LIBRARIES, library().name, now)
    return now


def drop_unused(client: Any, servers: list[Any], now: int) -> None:
    """Remove the libraries of other versions that no run has used for UNUSED_S.

    client   of the whole store, which holds when each was used
    servers  clients of the servers whose libraries are looked at
    now      UNIX seconds, by the store's clock
    """
    used = {name.decode(): int(at) for name, at in client.hgetall(keys.LIBRARIES).items()}
    for server in servers:
        for name in _loaded(server):
            if name not in used:
                client.hsetnx(keys.LIBRARIES, name, now)
            elif used[name] < now - UNUSED_S:
                _delete(server, name)
    for name, at in used.items():
        if at < now - UNUSED_S:
            client.hdel(keys.LIBRARIES, name)


def _loaded(server: Any) -> list[str]:
    """Return the names of the libraries of this family that a server has."""
    entries = server.function_list(library=f"{FAMILY}*")
    return [entry[entry.index(b"library_name") + 1].decode() for entry in entries]


def _delete(server: Any, name: str) -> None:
    try:
        server.function_delete(name)
    except redis.ResponseError:  # another run has removed it just now
        if name in _loaded(server):
            raise
