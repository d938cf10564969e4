"""The names of keys. `{source}` is a hash tag: all keys of a source share a cluster slot."""

from __future__ import annotations

import re

NAME_MOST = 32
NAME = re.compile(rf"[a-z][a-z0-9_]{{0,{NAME_MOST - 1}}}")
NAME_RULE = "a lower-case letter, then up to 31 lower-case letters, digits or _"

SOURCES = "fg:sources"
EPOCHS = "fg:epochs"  # the last epoch of all sources that were forgotten
IDENTITY = "fg:identity"
LIBRARIES = "fg:libraries"  # hash: when each function library was last used, UNIX seconds
HEAVY_ASKS = "fg:heavy:asks"
HEAVY_ALIVE = "fg:heavy:alive"
COLLECT = "collect"  # the stage that keeps footage
CERTIFY = "certify"  # the stage whose stream tells of the promise
EVENTS = "events"  # the stage whose stream tells of episodes: see contracts.episodes
SOUND = "sound"  # the stage whose stream tells what was heard: see contracts.results
LISTEN = "listen"  # the one that hears it on the main path, where rules ask for sounds


def is_name(text: str) -> bool:
    """Return whether `text` may name a source or a stage."""
    return NAME.fullmatch(text) is not None


def out(source: str, stage: str) -> str:
    """Stream that a stage writes."""
    return f"fg:{{{source}}}:out:{stage}"


def at(source: str, stage: str) -> str:
    """Hash of a stage's token, position, state and wake mark."""
    return f"fg:{{{source}}}:at:{stage}"


def tag(source: str) -> bytes:
    """What all keys of a source begin with."""
    return f"fg:{{{source}}}".encode()


def sink(source: str, name: str) -> str:
    """Hash of where a sink stands with what the stage EVENTS says of a source."""
    return f"fg:{{{source}}}:sink:{name}"


def own(source: str) -> str:
    """Hash of the owning run, the last epoch, and which model looks at the source."""
    return f"fg:{{{source}}}:own"


def results(source: str) -> str:
    """Published stream."""
    return f"fg:{{{source}}}:results"


def count(source: str) -> str:
    """Hash of counters."""
    return f"fg:{{{source}}}:count"


def room(source: str) -> str:
    """Stream of length 1 that wakes a waiting decoder."""
    return f"fg:{{{source}}}:room"


def aside(source: str) -> str:
    """Stream of records that were set aside, with their bytes and the reason."""
    return f"fg:{{{source}}}:aside"


def heavy_reply(asker: str, call: int) -> str:
    """List of the replies to one call of an asker of heavy workers; it expires."""
    return f"fg:heavy:reply:{asker}:{call}"
