"""The plan of a fleet in the store, and the signs of life of its slots.

The key `fg:fleet` is a stream. Its entry `<version>-0` is a version of the plan; the last KEPT
stay. A writer adds the version after the one that it read. The server refuses an id that is not
above the last one, so of two writers that read the same version only one succeeds. No function of
ours is needed, and any Redis client can read the plan, which is JSON.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec
import redis

from framegate.pipeline.contracts import keys, records
from framegate.pipeline.contracts.errors import (
    FramegateError,
    StoreBusy,
    StoreLost,
    StoreRefused,
    TakenOver,
)
from framegate.pipeline.contracts.records import DecodeState
from framegate.pipeline.contracts.redaction import shown
from framegate.pipeline.fleet.cost_meter import FrameCounts
from framegate.pipeline.fleet.plan import VERSION, FleetPlan
from framegate.pipeline.store.hop import function, replicas_command, too_few_replicas
from framegate.pipeline.store.redis_client import connect, store_errors

KEPT: Final = 16
ALIVE_S: Final = 10  # a sign of life is visible so long
RENEWED_S: Final = 0.2  # between two looks whether a sign of life was renewed
RAY_KEYS: Final = ("RAYframegate@check", "DUMMY")  # Ray removes DUMMY itself, as its own check
COMMAND_S: Final = 2.0  # longest wait of a command for each reply


class PlanChanged(FramegateError):
    """Another change of the plan was written meanwhile; nothing was written."""


class SlotSign(msgspec.Struct, frozen=True):
    """A sign of life of a slot. It is shown to people, and decides only how long a successor waits.

    run      id of its run
    host     its host name
    version  version of the plan that it follows
    serves   number of its sources that it serves
    refused  why it does not serve the rest of them, by source
    http     HOST:PORT at which other hosts reach its HTTP port; "": they cannot
    fault    why it cannot follow newer plans; "" if it can
    costs    CPU cores that each of its cameras needed in the last minutes, as it measured
    """

    run: str
    host: str
    version: int
    serves: int
    refused: dict[str, str] = {}
    http: str = ""
    fault: str = ""
    costs: dict[str, float] = {}


class _PlanRecord(msgspec.Struct, frozen=True):
    """The version of the record of a plan, which is read before its other fields."""

    v: int = VERSION


class SourceOwner(msgspec.Struct, frozen=True):
    """The owner of a source in the store.

    run    id of the run; "": no run owns the source
    name   name of the run for messages
    since  version of the plan by which a slot owns it; 0: the owner is no slot
    epoch  last epoch of the source
    """

    run: str = ""
    name: str = ""
    since: int = 0
    epoch: int = 0


class FleetStore:
    """Connections to the plan of a fleet. Any thread: each call takes one from a pool.

    Each method raises StoreLost, StoreBusy or StoreRefused within a few times `answer_s`.
    """

    def __init__(self, url: str, answer_s: float = COMMAND_S) -> None:
        self._url = url
        self._client = connect(url, answer_s)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def plan(self, after: int = 0) -> FleetPlan | None:
        """Return the newest plan; None if its version is not above `after`.

        StoreRefused, too, for a plan that this Framegate cannot read.
        """
        with store_errors(self._url):
            entries = self._client.xrevrange(keys.FLEET, "+", f"({after}-0", count=1)
        if not entries:
            return None
        data = entries[0][1][b"d"]
        try:
            record = msgspec.json.decode(data, type=_PlanRecord)
            if record.v > VERSION:
                raise StoreRefused(
                    f"store {shown(self._url)}: the plan of the fleet has version {record.v}, and "
                    f"this Framegate reads up to {VERSION}; use the version that wrote it"
                )
            return msgspec.json.decode(data, type=FleetPlan)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise StoreRefused(f"store {shown(self._url)}: {keys.FLEET}: {error}") from None

    def check_ray(self) -> None:
        """Raise StoreRefused if the user of the URL may not write the keys of Ray."""
        with store_errors(self._url):
            try:
                for key in RAY_KEYS:
                    self._client.delete(key)
            except redis.exceptions.NoPermissionError as error:
                raise StoreRefused(
                    f"store {shown(self._url)} refuses: {error}; Ray keeps its state in this "
                    "store, so the user of --store also needs: ACL SETUSER framegate ~RAY* ~DUMMY"
                ) from None

    def last_version(self) -> int:
        """Return the newest version of a plan by which a slot owned a source, or that a slot
        follows; 0 if there was none. A plan that was deleted leaves it in the store, and slots wait
        for a newer one.
        """
        with store_errors(self._url):
            sources = self._client.hkeys(keys.SOURCES)
            signs = list(self._client.scan_iter(match=keys.fleet_slot("*")))
        owners = self.owners([source.decode() for source in sources])
        prefix = keys.fleet_slot("")
        alive = self.signs([sign.decode().removeprefix(prefix) for sign in signs])
        versions = [owner.since for owner in owners.values()]
        versions += [sign.version for sign in alive.values()]
        return max(versions, default=0)

    def write(self, plan: FleetPlan, replicas: int = 0) -> None:
        """Write the next version of the plan. PlanChanged if another one was written meanwhile.

        replicas  number of replicas that must have it
        """
        command = ("MAXLEN", str(KEPT), f"{plan.version}-0", "d", msgspec.json.encode(plan))
        with store_errors(self._url):
            try:
                self._client.execute_command("XADD", keys.FLEET, *command)
            except redis.ResponseError as error:
                if "equal or smaller" not in str(error):
                    raise
                raise PlanChanged(
                    f"version {plan.version} of the fleet was written meanwhile by another "
                    "command; look at framegate fleet status and repeat the command"
                ) from None
            if replicas:
                reached = self._client.execute_command(*replicas_command(replicas))
                if reached < replicas:
                    raise StoreRefused(
                        f"store {shown(self._url)}: {too_few_replicas(reached, replicas)}; the "
                        "plan is written, and a failover may lose it"
                    )

    def claim_slot(self, slot: str, run: str, name: str, starts: bool = False) -> None:
        """Make a run the newest instance of a slot. TakenOver if a newer one is up.

        It is the `claim` of a source with a single version of the plan, so two instances that are
        restarted automatically do not take turns.

        starts  whether the run has just started. Then it also follows a newer instance that gives
                no sign of life any more, for which the call waits up to ALIVE_S
        """
        newer = self._try_to_claim_slot(slot, run, name, is_alone=False)
        if newer is not None and starts and not self._is_alive(slot):
            newer = self._try_to_claim_slot(slot, run, name, is_alone=True)
        if newer is not None:
            raise TakenOver(f"slot {slot}: a newer instance of it is up ({newer}); this one ends")

    def _try_to_claim_slot(self, slot: str, run: str, name: str, is_alone: bool) -> str | None:
        """Return the name of the newer instance, to which the slot stays; None if it is claimed."""
        own = keys.fleet_slot_own(slot)
        by_hand = str(int(is_alone))
        with store_errors(self._url):
            status, *details = self._client.fcall(
                function("claim"), 2, own, f"{own}:at", run, name, "1", by_hand, "1", ""
            )
        if status == b"OK":
            return None
        newer: str = details[0].decode()
        return newer

    def _is_alive(self, slot: str) -> bool:
        """Return whether a slot renews its sign of life; wait until it does or the sign expires."""
        with store_errors(self._url):
            left_ms = self._client.pttl(keys.fleet_slot(slot))
            while left_ms > 0:
                time.sleep(RENEWED_S)
                now_ms = self._client.pttl(keys.fleet_slot(slot))
                if now_ms > left_ms:
                    return True
                left_ms = now_ms
        return False

    def has_slot(self, slot: str, run: str) -> bool:
        """Return whether a run is still the newest instance of a slot."""
        with store_errors(self._url):
            owner = self._client.hget(keys.fleet_slot_own(slot), "run")
        return bool(owner == run.encode())

    def release_slot(self, slot: str, run: str) -> None:
        """Let any instance claim the slot, if this run is the newest one."""
        with store_errors(self._url):
            self._client.fcall(function("release"), 1, keys.fleet_slot_own(slot), run, "0")

    def sign(self, slot: str, sign: SlotSign) -> None:
        """Write the sign of life of a slot, which expires after ALIVE_S."""
        with store_errors(self._url):
            self._client.set(keys.fleet_slot(slot), msgspec.json.encode(sign), ex=ALIVE_S)

    def sign_off(self, slot: str, run: str) -> None:
        """Remove the sign of life of a slot that ends, if it is of this run."""
        sign = self.signs([slot]).get(slot)
        if sign is not None and sign.run == run:
            with store_errors(self._url):
                self._client.delete(keys.fleet_slot(slot))

    def signs(self, slots: Sequence[str]) -> dict[str, SlotSign]:
        """Return the signs of life of those of these slots that are alive.

        A sign that cannot be read is left out: another program, or another version, wrote it.
        """
        replies = self._pipelined([("GET", keys.fleet_slot(slot)) for slot in slots])
        signs = {}
        for slot, reply in zip(slots, replies, strict=True):
            if reply is not None:
                with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError):
                    signs[slot] = msgspec.json.decode(reply, type=SlotSign)
        return signs

    def silent_s(self, slots: Sequence[str]) -> dict[str, float]:
        """Return the seconds since the last sign of life of those of these slots that have one."""
        replies = self._pipelined([("PTTL", keys.fleet_slot(slot)) for slot in slots])
        left_ms = dict(zip(slots, replies, strict=True))
        return {slot: ALIVE_S - left / 1000 for slot, left in left_ms.items() if left >= 0}

    def alive(self) -> list[str]:
        """Return the names of all slots with a sign of life, also of those without a plan."""
        with store_errors(self._url):
            found = list(self._client.scan_iter(match=keys.fleet_slot("*"), count=1000))
        return sorted(key.decode().removeprefix(keys.fleet_slot("")) for key in found)

    def owners(self, sources: Sequence[str]) -> dict[str, SourceOwner]:
        """Return the owner of each source."""
        fields = ("run", "name", "since", "epoch")
        replies = self._pipelined([("HMGET", keys.own(name), *fields) for name in sources])
        owners = {}
        for source, (run, name, since, epoch) in zip(sources, replies, strict=True):
            owners[source] = SourceOwner(
                (run or b"").decode(), (name or b"").decode(), int(since or 0), int(epoch or 0)
            )
        return owners

    def silent(self, sources: Iterable[str]) -> set[str]:
        """Return those of these sources whose server does not answer, after a call that failed.

        A store of one server is not asked again: then all of them are.
        """
        if not isinstance(self._client, redis.RedisCluster):
            return set(sources)
        client: Any = self._client  # these methods have no types
        by_server: dict[str, list[str]] = {}
        for source in sources:
            server = ""  # the cluster has none for it now
            with contextlib.suppress(redis.exceptions.RedisClusterException):
                server = client.get_node_from_key(keys.own(source)).name
            by_server.setdefault(server, []).append(source)
        silent: set[str] = set()
        for names in by_server.values():
            try:
                self.owners(names[:1])
            except StoreRefused:  # it answers
                continue
            except (StoreLost, StoreBusy):
                silent.update(names)
        return silent

    def frames(self, sources: Sequence[str]) -> dict[str, FrameCounts]:
        """Return the frames of each source so far."""
        commands = [("HMGET", keys.count(name), "decoded", "published") for name in sources]
        replies = self._pipelined(commands)
        return {
            name: FrameCounts(int(decoded or 0), int(published or 0))
            for name, (decoded, published) in zip(sources, replies, strict=True)
        }

    def unended(self) -> list[str]:
        """Return the sources of slots that no slot has decoded to their last end, nor removed."""
        with store_errors(self._url):
            sources = sorted(name.decode() for name in self._client.hkeys(keys.SOURCES))
        owners = self.owners(sources)
        theirs = [name for name in sources if owners[name].since and owners[name].name]
        states = self._pipelined([("HGET", keys.at(name, "decode"), "s") for name in theirs])
        return [
            name
            for name, state in zip(theirs, states, strict=True)
            if state is not None and not records.decode(state, DecodeState).done
        ]

    def _pipelined(self, commands: Iterable[tuple[str, ...]]) -> list[Any]:
        with store_errors(self._url):
            pipe = self._client.pipeline(transaction=False)
            for command in commands:
                pipe.execute_command(*command)
            replies: list[Any] = pipe.execute()
        return replies
