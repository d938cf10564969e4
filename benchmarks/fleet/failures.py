"""A fleet of two hosts with cameras, in which things fail: time to the first result after each.

Each host has one slot, and a keeper that restarts it. Nothing restarts a slot on another host, so a
lost slot is drained at once, as a person or an engine would do it after having noticed the loss.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import redis

from benchmarks.fleet import keeper
from benchmarks.fleet.hosts import Hosts, hosts
from benchmarks.harness import configuration
from benchmarks.harness.process_tree import memory_bytes, usage
from framegate.pipeline.contracts import keys, records
from framegate.pipeline.contracts.records import Position
from framegate.pipeline.contracts.results import Result
from framegate.pipeline.fleet.change import FleetContent, apply_content, drain_slots, move_sources
from framegate.pipeline.fleet.fleet_store import FleetStore
from framegate.pipeline.fleet.plan import FleetPlan, FleetSource
from framegate.pipeline.store.embedded import EmbeddedStore
from tests.support.cameras.scripted import ScriptedCamera, paced

FPS: Final = 10
SLOTS: Final = ("a", "b")
_LOOK_S: Final = 0.01
_WAIT_S: Final = 180.0
_FRESH: Final = 5  # results of each source before something fails
_GAP: Final = 4000  # entries in which the last result before a failure is looked for


@dataclass
class Failure:
    """What a failure cost: of each source in each round, seconds and frames without a result."""

    what: str
    seconds: list[float] = field(default_factory=list)
    frames_lost: list[int] = field(default_factory=list)


class CameraFleet:
    """The fleet under way. Source `cameraN` has its home in slot N modulo two."""

    def __init__(self, made: Hosts, store: EmbeddedStore, folder: Path) -> None:
        """Keep the parts."""
        self.kind = made.kind
        self.hosts = dict(zip(SLOTS, made.hosts, strict=True))
        self.plans = FleetStore(store.url)
        self._client: Any = redis.Redis.from_url(store.url, protocol=2)
        self._folder = folder
        self._store_at = made.expose(str(store.socket))
        self._env: dict[str, dict[str, str]] = {slot: {} for slot in SLOTS}
        self.sources: list[str] = []

    def add_camera(self, made: Hosts, camera: ScriptedCamera) -> None:
        """Make a camera the next source. Its URL differs from host to host."""
        number = len(self.sources)
        for slot, at in zip(SLOTS, made.expose(f"127.0.0.1:{camera.port}").values(), strict=True):
            self._env[slot][f"CAMERA_{number}"] = f"http://{at}/cam.mjpg"
        self.sources.append(f"camera{number}")

    def begin(self) -> None:
        """Write the plan, start all slots, and wait for results of all sources."""
        sources = {
            name: FleetSource({"url_env": f"CAMERA_{number}"}, 0.18)
            for number, name in enumerate(self.sources)
        }
        content = FleetContent(dict.fromkeys(SLOTS, 2.0), sources)
        self.plans.write(apply_content(FleetPlan(), content))
        for slot in SLOTS:
            self.start(slot)
        self.settle()

    def start(self, slot: str) -> None:
        """Start the keeper of a slot on its host."""
        host = self.hosts[slot]
        folder = self._folder / host.name
        folder.mkdir(exist_ok=True)
        if not (folder / "pipeline.toml").exists():
            (folder / "pipeline.toml").write_text(configuration.packaged({}), encoding="utf-8")
        words = (keeper.__file__, f"redis://{self._store_at[host.name]}", str(folder), slot)
        host.start(words, folder / "log.txt", self._env[slot])

    def home(self, slot: str) -> list[str]:
        """Return the sources whose home a slot is."""
        return [
            name for number, name in enumerate(self.sources) if SLOTS[number % len(SLOTS)] == slot
        ]

    def settle(self) -> None:
        """Bring all sources home, and wait until they have fresh results."""
        drained = [slot for slot, room in self._plan().slots.items() if room.drained]
        if drained:
            self.change(lambda plan: drain_slots(plan, drained, is_drained=False))
        self._until("all slots are alive", lambda: set(self.plans.signs(SLOTS)) == set(SLOTS))
        for slot in SLOTS:
            away = [name for name in self.home(slot) if self._plan().sources[name].slot != slot]
            if away:
                self.move(away, slot)
        self._until("each slot serves its sources", self._is_served)
        published = self._published()
        self._until(
            "all sources have results",
            lambda: all(
                now >= before + _FRESH
                for now, before in zip(self._published(), published, strict=True)
            ),
        )

    def change(self, changed: Callable[[FleetPlan], FleetPlan]) -> None:
        """Write the next plan."""
        self.plans.write(changed(self._plan()))

    def move(self, names: Sequence[str], slot: str) -> None:
        """Move sources to a slot."""
        self.change(lambda plan: move_sources(plan, names, slot))

    def measure(self, failure: Failure, names: Sequence[str], fail: Callable[[], None]) -> None:
        """Let something fail, and note how long each of these sources has no result."""
        before = {name: self._last(name) for name in names}
        began = time.monotonic()
        fail()
        missing = set(names)

        def look() -> bool:
            for name in sorted(missing):
                if self._last(name).epoch > before[name].epoch:
                    failure.seconds.append(time.monotonic() - began)
                    missing.discard(name)
            return not missing

        self._until(f"{failure.what}: results again of {', '.join(names)}", look)
        failure.frames_lost += [self._frames_lost(name) for name in names]

    def supervisor(self, slot: str) -> int:
        """Return the process of a slot's run."""
        host = self.hosts[slot]
        assert host.init is not None
        commands = usage(host.init.pid).commands
        return next(pid for pid, command in commands.items() if command == "supervisor")

    def idle(self, seconds: float) -> tuple[float, float]:
        """Return memory in MB and share of a core of the engine, on the host that needs most.

        The slot itself is not in it.
        """
        found = []
        for slot, host in self.hosts.items():
            assert host.init is not None
            root, run = host.init.pid, self.supervisor(slot)
            memory = memory_bytes(root, without=run)
            before, of_run = usage(root), usage(run)
            time.sleep(seconds)
            spent = usage(root).since(before) - usage(run).since(of_run)
            found.append((memory / 1e6, max(0.0, spent) / seconds))
        return max(memory for memory, _ in found), max(cpu for _, cpu in found)

    def close(self) -> None:
        """Close the connections. The hosts end their processes themselves."""
        self.plans.close()
        self._client.close()

    def _plan(self) -> FleetPlan:
        plan = self.plans.plan()
        assert plan is not None
        return plan

    def _is_served(self) -> bool:
        signs, plan = self.plans.signs(SLOTS), self._plan()
        owners = self.plans.owners(self.sources)
        return all(
            plan.sources[name].slot in signs
            and owners[name].run == signs[plan.sources[name].slot].run
            for name in self.sources
        )

    def _published(self) -> list[int]:
        counts = [self._client.hget(keys.count(name), "published") for name in self.sources]
        return [int(count or 0) for count in counts]

    def _last(self, name: str) -> Position:
        entries = self._client.xrevrange(keys.results(name), count=1)
        if not entries:
            return Position(0, 0)
        return Position.parse(entries[0][0])

    def _frames_lost(self, name: str) -> int:
        """Return the frames between the last two epochs that have no result: of a camera that sends
        FPS frames per second.
        """
        last: Result | None = None
        for _, fields in self._client.xrevrange(keys.results(name), count=_GAP):
            if fields[b"k"] != b"frame":
                continue
            result = records.decode_versioned(fields[b"d"], Result)
            if last is not None and result.epoch < last.epoch:
                if result.outcome == "failed":
                    continue
                return max(0, round((last.captured - result.captured) * FPS) - 1)
            last = result
        return 0

    @staticmethod
    def _until(what: str, is_so: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _WAIT_S
        while not is_so():
            if time.monotonic() > deadline:
                raise TimeoutError(f"not within {_WAIT_S:.0f} s: {what}")
            time.sleep(_LOOK_S)


@contextmanager
def camera_fleet(folder: Path, cameras: int) -> Iterator[CameraFleet]:
    """Make such a fleet; all of it is gone after the block."""
    with ExitStack() as stack:
        store = EmbeddedStore(folder / "store", "everysec")
        store.start()
        stack.callback(store.stop)
        store.settle()
        made = stack.enter_context(hosts([f"host{number}" for number in range(len(SLOTS))]))
        fleet = CameraFleet(made, store, folder)
        stack.callback(fleet.close)
        for _ in range(cameras):
            camera = ScriptedCamera(lambda: paced(10_000_000, FPS))
            stack.callback(camera.close)
            fleet.add_camera(made, camera)
        fleet.begin()
        yield fleet


# -- failures. `settle` brings all sources home after each.


def kill_process(fleet: CameraFleet, failure: Failure) -> None:
    """Kill a slot's run; its keeper starts it again."""
    run = fleet.supervisor("a")
    fleet.measure(failure, fleet.home("a"), lambda: os.kill(run, signal.SIGKILL))


def kill_host(fleet: CameraFleet, failure: Failure) -> None:
    """Kill all processes of a host, and drain its slot at once; then start the host again."""

    def fail() -> None:
        fleet.hosts["a"].kill()
        _drain(fleet)

    fleet.measure(failure, fleet.home("a"), fail)
    fleet.start("a")


def cut_link(fleet: CameraFleet, failure: Failure) -> None:
    """Cut the link of a host, and drain its slot at once; then heal the link."""

    def fail() -> None:
        fleet.hosts["a"].cut()
        _drain(fleet)

    try:
        fleet.measure(failure, fleet.home("a"), fail)
    finally:
        fleet.hosts["a"].heal()


def _drain(fleet: CameraFleet) -> None:
    fleet.change(lambda plan: drain_slots(plan, ["a"], is_drained=True))


def move_by_plan(fleet: CameraFleet, failure: Failure) -> None:
    """Move all sources of a slot to the other one."""
    names = fleet.home("a")
    fleet.measure(failure, names, lambda: fleet.move(names, "b"))


FAILURES: Final[Mapping[str, Callable[[CameraFleet, Failure], None]]] = {
    "process killed": kill_process,
    "host killed": kill_host,
    "link cut": cut_link,
    "planned move": move_by_plan,
}


def fail(fleet: CameraFleet, what: str, rounds: int) -> Failure:
    """Let a failure happen so often."""
    failure = Failure(what)
    for number in range(rounds):
        fleet.settle()
        FAILURES[what](fleet, failure)
        print(what, number + 1, [round(s, 2) for s in failure.seconds], flush=True)
    return failure
