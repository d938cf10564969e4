"""The parts of a simulated week: durations and rates of failures, hosts, instances, the outcome."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

DAY_S: Final = 86_400.0
COSTS: Final = (0.06, 0.18, 0.36)  # cores of a source: 360p, 1080p, two of 1080p
SLOT_CORES: Final = 2.0
HOST_CORES: Final = (2, 4, 8, 16)
FULL: Final = 0.75  # share of the slots' cores that the sources need
SPARE: Final = 1.1  # cores of all hosts / cores of all slots

# Seconds, each a uniform range. Measured for Ray with tuned settings, and for `framegate run`.
RESTART_S: Final = (2.6, 3.0)  # a killed process: until its engine has started it again
LOST_S: Final = (8.1, 13.0)  # a host without power or link: until its slots start elsewhere
HEAD_S: Final = 7.0  # a new head: until it restarts what was lost meanwhile
START_S: Final = (6.0, 7.6)  # a start of a run, until it looks at the plan
FIRST_S: Final = (1.1, 1.5)  # a claim by a run that is up, until the first result
FINISH_S: Final = (0.1, 1.0)  # the decoded frames of a source that is handed over

# Mean days between two failures, and the range of seconds that they last.
CRASH_DAYS: Final = 30.0  # of a slot
POWER_DAYS, POWER_S = 60.0, (600.0, DAY_S)  # of a host
CUT_DAYS, CUT_S = 30.0, (5.0, 600.0)  # of a host's link
HEAD_DAYS, AWAY_S = 3.5, (20.0, 300.0)  # of the engine's head
STORE_DAYS, STORE_S = 3.5, (1.0, 60.0)  # of the store
CHANGED: Final = 0.005  # share of the sources that leave and that come, each day
BATCHES: Final = 20  # groups of hosts that are upgraded one after another, once a week
UPGRADE_S: Final = 300.0
OVERDUE_S: Final = 30.0
NO_ROOM_S: Final = 60.0  # a slot that has no host for so long is drained until it has one


@dataclass
class Instance:
    """A process of a slot.

    run       id of its run, which is that of its data folder: of the slot on this host
    has_slot  whether it has claimed its slot
    serves    sources that it believes to own, with their version of the plan
    waits     sources that it waits for, and since when
    """

    run: str
    slot: str
    host: int
    is_up: bool = False
    is_dead: bool = False
    has_slot: bool = False
    serves: dict[str, int] = field(default_factory=dict)
    waits: dict[str, float] = field(default_factory=dict)


@dataclass
class SimulatedHost:
    """A host. slots: those that the engine keeps on it"""

    cores: float
    has_power: bool = True
    has_link: bool = True
    slots: set[str] = field(default_factory=set)

    @property
    def is_reached(self) -> bool:
        """Return whether store and engine reach it."""
        return self.has_power and self.has_link


@dataclass
class Week:
    """The outcome of a simulation.

    recovered   by cause: seconds without results, of each source that was interrupted
    unplaced    sources without a slot while a slot had room; must be 0
    needless    sources that left a slot that was neither removed nor drained; must be 0
    owners      generations with two owners; must be 0
    revived     instances that got their slot back from a newer one that was up; must be 0
    unserved    sources without results at the end, although their slot is up; must be 0
    moves       sources that a plan gave to another slot, by cause
    slot_moves  slots that the engine moved to another host
    """

    days: float
    sources: int
    recovered: dict[str, list[float]] = field(default_factory=dict)
    unplaced: int = 0
    needless: int = 0
    owners: int = 0
    revived: int = 0
    unserved: int = 0
    moves: dict[str, int] = field(default_factory=dict)
    slot_moves: int = 0
