"""The fleet of the soak: two hosts, their slots, small cameras that can hang up, and one store."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import redis

from benchmarks.fleet import keeper
from benchmarks.fleet.hosts import Host, Hosts, hosts
from framegate.pipeline.contracts import keys
from framegate.pipeline.contracts.errors import StoreBusy, StoreLost
from framegate.pipeline.fleet.change import FleetContent, apply_content
from framegate.pipeline.fleet.fleet_store import FleetStore
from framegate.pipeline.fleet.plan import FleetPlan, FleetSource
from framegate.pipeline.store.embedded import EmbeddedStore
from tests.support.cameras.scripted import ScriptedCamera, Step, paced
from tests.support.commands import user_folder

FPS: Final = 5
HOSTS: Final = ("a", "b")
COST: Final = 0.15  # cores of a source in the plan
CORES: Final = 2.0
AWAY: Final = (StoreLost, StoreBusy, redis.ConnectionError, redis.TimeoutError)
CONFIG: Final = """
[record]
sources = true
free_bytes = 16777216
[events.rules.visitor]
when = "inside"
labels = ["person"]
until_s = 0.0
gap_s = 0.3
clip = { before_s = 1.0, after_s = 1.0 }
"""
_FRESH: Final = 5  # results of each source after all has healed
_WAIT_S: Final = 600.0  # a busy machine starts six slots in a minute
_LOOK_S: Final = 0.2


class SmallCameras:
    """Cameras behind one port, each connection one of them. A thread for each connection."""

    def __init__(self) -> None:
        """Begin to listen."""
        self._numbers = itertools.count()
        self._open: set[int] = set()
        self._server = ScriptedCamera(self._steps)

    @property
    def address(self) -> str:
        """Return its HOST:PORT on the loopback."""
        return f"127.0.0.1:{self._server.port}"

    def hang_up(self, chance: random.Random) -> bool:
        """Close one of the connections; False if there is none."""
        connections = sorted(self._open)
        if connections:
            self._open.discard(chance.choice(connections))
        return bool(connections)

    def close(self) -> None:
        """Close all connections, and the port."""
        self._server.close()

    def _steps(self) -> Iterator[Step]:
        number = next(self._numbers)
        self._open.add(number)
        try:
            for step in paced(10_000_000, FPS):
                if number not in self._open:
                    return
                yield step
        finally:
            self._open.discard(number)


class SoakFleet:
    """The fleet under way. A slot `a1` is on host `a`."""

    def __init__(
        self, made: Hosts, store: EmbeddedStore, cameras: SmallCameras, folder: Path, slots: int
    ) -> None:
        """Keep the parts. slots: of each host"""
        self.kind = made.kind
        self.hosts = dict(zip(HOSTS, made.hosts, strict=True))
        self.slots = {host: [f"{host}{n + 1}" for n in range(slots)] for host in HOSTS}
        self.store = store
        self.cameras = cameras
        self.plans = FleetStore(store.url)
        self.client: Any = redis.Redis.from_url(store.url, protocol=2, socket_timeout=5)
        self.sources: list[str] = []
        self._folder = folder
        self._store_at = made.expose(str(store.socket))
        self._cameras_at = made.expose(cameras.address)

    @property
    def all_slots(self) -> list[str]:
        """Return the slots of both hosts."""
        return [slot for slots in self.slots.values() for slot in slots]

    def begin(self, cameras: int) -> None:
        """Write the plan, start both hosts, and wait for results of all sources."""
        self.sources = [f"camera{number}" for number in range(cameras)]
        sources = {
            name: FleetSource({"url_env": f"URL_{number}"}, COST)
            for number, name in enumerate(self.sources)
        }
        content = FleetContent(dict.fromkeys(self.all_slots, CORES), sources)
        self.plans.write(apply_content(FleetPlan(), content))
        for name in HOSTS:
            self.start(name)
        self.settle()

    def start(self, name: str) -> None:
        """Start the keeper of a host, and so its slots."""
        host, folder = self.hosts[name], self.folder(name)
        if not folder.exists():
            user_folder(folder, more=CONFIG)
        at = self._cameras_at[host.name]
        env = {
            f"URL_{number}": f"http://{at}/{source}.mjpg"
            for number, source in enumerate(self.sources)
        }
        store = f"redis://{self._store_at[host.name]}"
        words = (keeper.__file__, store, str(folder), *self.slots[name])
        host.start(words, self.log(name), env)

    def folder(self, name: str) -> Path:
        """Return the folder of a host, in which each slot has its data folder."""
        return self._folder / name

    def log(self, name: str) -> Path:
        """Return the file with all that a host has logged."""
        return self._folder / f"{name}.log"

    def data(self, slot: str) -> Path:
        """Return the data folder of a slot."""
        return self.folder(slot[0]) / slot

    def runs(self, name: str) -> dict[str, int]:
        """Return the processes of a host that supervise a slot, by slot."""
        found = {}
        for pid in self.hosts[name].pids():
            words = _command(pid)
            if "framegate.cli" in words and "--slot" in words:
                found[words[words.index("--slot") + 1]] = pid
        return found

    def engine(self, name: str) -> list[int]:
        """Return the processes of a host that keep its slots alive."""
        return [pid for pid in self.hosts[name].pids() if keeper.__file__ in _command(pid)]

    def change(self, changed: Callable[[FleetPlan], FleetPlan]) -> None:
        """Write the next plan."""
        self.plans.write(changed(self.plan()))

    def plan(self) -> FleetPlan:
        """Return the plan of the store."""
        plan = self.plans.plan()
        assert plan is not None
        return plan

    def published(self) -> list[int]:
        """Return how many results each source has."""
        counts = [self.client.hget(keys.count(name), "published") for name in self.sources]
        return [int(count or 0) for count in counts]

    def settle(self) -> None:
        """Wait until each source is served by its slot, and has new results."""
        self._until("each slot serves its sources", self._is_served)
        before = self.published()
        self._until("all sources have results", lambda: self._has_results(before))

    def _is_served(self) -> bool:
        signs, plan = self.plans.signs(self.all_slots), self.plan()
        owners = self.plans.owners(self.sources)
        return set(signs) == set(self.all_slots) and all(
            plan.sources[name].slot in signs
            and owners[name].run == signs[plan.sources[name].slot].run
            for name in self.sources
        )

    def _has_results(self, before: Sequence[int]) -> bool:
        return all(
            now >= earlier + _FRESH for now, earlier in zip(self.published(), before, strict=True)
        )

    def _until(self, what: str, is_so: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _WAIT_S
        while time.monotonic() < deadline:
            with suppress(*AWAY):
                if is_so():
                    return
            time.sleep(_LOOK_S)
        raise TimeoutError(f"not within {_WAIT_S:.0f} s: {what}\n{self._state()}")

    def _state(self) -> str:
        owners = self.plans.owners(self.sources)
        signs = self.plans.signs(self.all_slots)
        lines = [f"{name}: {source}" for name, source in self.plan().sources.items()]
        lines += [f"{name}: {owner}" for name, owner in owners.items()]
        lines += [f"{slot}: {signs.get(slot)}" for slot in self.all_slots]
        return "\n".join(lines)

    def close(self) -> None:
        """Close the connections. The hosts end their processes themselves."""
        self.plans.close()
        self.client.close()


def worker_pids(host: Host) -> list[int]:
    """Return the worker processes of all slots of a host."""
    return [pid for pid in host.pids() if "framegate.pipeline.run.worker_main" in _command(pid)]


def _command(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8").split("\0")
    except OSError:
        return []


@contextmanager
def soak_fleet(folder: Path, cameras: int, slots: int) -> Iterator[SoakFleet]:
    """Make the fleet; all of it is gone after the block. slots: of each host"""
    with ExitStack() as stack:
        store = EmbeddedStore(folder / "store", "everysec")
        store.start()
        stack.callback(store.stop)
        store.settle()
        small = SmallCameras()
        stack.callback(small.close)
        made = stack.enter_context(hosts(HOSTS))
        fleet = SoakFleet(made, store, small, folder, slots)
        stack.callback(fleet.close)
        fleet.begin(cameras)
        yield fleet
