"""The names of all keys in the store.

`{source}` is a hash tag, so all keys of a source share a slot of a Redis Cluster.
"""

from __future__ import annotations

import functools
import re

NAME_MOST = 32
NAME = re.compile(rf"[a-z][a-z0-9_]{{0,{NAME_MOST - 1}}}")
NAME_RULE = "a lower-case letter, then up to 31 lower-case letters, digits or _"

SOURCES = "fg:sources"
EPOCHS = "fg:epochs"  # the highest epoch of all sources that the store has forgotten
IDENTITY = "fg:identity"
LIBRARIES = "fg:libraries"  # hash: when each function library was last used, UNIX seconds
HEAVY_ASKS = "fg:heavy:asks"
HEAVY_ALIVE = "fg:heavy:alive"
FLEET = "fg:fleet"  # stream: the last versions of the plan of a fleet
FLEET_RECORDINGS = "fg:fleet:recordings"  # set: sources with recordings on any host of a fleet
COLLECT = "collect"  # stage that keeps footage
CERTIFY = "certify"  # stage that writes the state of the promise
WINDOWS = "windows"  # stage that makes the visits of tracks: see contracts.visits
VISITS = "visits"  # stage that writes the visits that ended: see contracts.visits
EVENTS = "events"  # stage that writes changes of episodes: see contracts.episodes
SOUND = "sound"  # stage that writes recognised sounds: see contracts.results
LISTEN = "listen"  # stage that recognises sounds on the main path, if rules need them


# Each hop needs these names for each of its sources and stages.
_cached = functools.lru_cache(maxsize=4096)


def is_name(text: str) -> bool:
    """Return whether `text` may name a source or a stage."""
    return NAME.fullmatch(text) is not None


@_cached
def out(source: str, stage: str) -> str:
    """Return the stream that a stage writes."""
    return f"fg:{{{source}}}:out:{stage}"


@_cached
def at(source: str, stage: str) -> str:
    """Return the hash with a stage's token, position, state and wake mark."""
    return f"fg:{{{source}}}:at:{stage}"


def tag(source: str) -> bytes:
    """Return the prefix of all keys of a source."""
    return f"fg:{{{source}}}".encode()


def sink(source: str, name: str) -> str:
    """Return the hash with a sink's position in the stream of the stage EVENTS."""
    return f"fg:{{{source}}}:sink:{name}"


def own(source: str) -> str:
    """Return the hash with the owning run, the last epoch, and the model of the source."""
    return f"fg:{{{source}}}:own"


@_cached
def results(source: str) -> str:
    """Return the published stream."""
    return f"fg:{{{source}}}:results"


@_cached
def count(source: str) -> str:
    """Return the hash with the counters."""
    return f"fg:{{{source}}}:count"


@_cached
def room(source: str) -> str:
    """Return the stream of length 1 that wakes a waiting decoder."""
    return f"fg:{{{source}}}:room"


@_cached
def aside(source: str) -> str:
    """Return the stream of records that were set aside, with their bytes and the reason."""
    return f"fg:{{{source}}}:aside"


def fleet_slot(name: str) -> str:
    """Return the sign of life of a fleet's slot; it expires."""
    return f"fg:fleet:slot:{name}"


def fleet_slot_own(name: str) -> str:
    """Return the hash with the run that is the newest instance of a fleet's slot."""
    return f"fg:fleet:{{{name}}}:own"


def fleet_recordings(source: str) -> str:
    """Return the hash with the data folders of a fleet that have recordings of a source."""
    return f"fg:fleet:recordings:{source}"


def heavy_reply(asker: str, call: int) -> str:
    """Return the list of replies to one call of an asker of heavy workers; it expires."""
    return f"fg:heavy:reply:{asker}:{call}"
