"""`framegate fleet`: say which slot of several hosts serves which source, and show what they do."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import msgspec

from framegate.cli.console.terminal import counted
from framegate.cli.help import ending
from framegate.pipeline.config.store import url_said
from framegate.pipeline.contracts.errors import ConfigFaults, Exit
from framegate.pipeline.fleet.change import (
    apply_content,
    changes,
    drain_slots,
    is_same,
    move_sources,
)
from framegate.pipeline.fleet.fleet_file import plain_cameras, read_fleet_file
from framegate.pipeline.fleet.fleet_store import FleetStore, SlotSign, SourceOwner
from framegate.pipeline.fleet.plan import FleetPlan
from framegate.pipeline.system.logs import to_user

PAGE = "fleet"
SILENT_S: Final = 3.0  # slots give signs of life each second, so after this one may be dead
LEFT: Final = (
    "it left the fleet while no slot served it, so its episodes are still open; add it to "
    "fleet.toml again, and remove it once a slot serves it"
)
_EXAMPLES: Final = {
    "apply": "apply fleet.toml",
    "diff": "diff fleet.toml",
    "status": "status",
    "move": "move gate box2",
    "drain": "drain box1",
    "undrain": "undrain box1",
    "head": "head 10.0.0.5:6380",
    "join": "join 10.0.0.5:6380 -d data --env-file vars",
}


def register(commands: Any) -> None:
    """Add the command to the command line."""
    command = commands.add_parser(
        "fleet",
        description="Spread sources over slots on several hosts. A slot is a process "
        "framegate run --slot NAME; all slots share a store. Each change is one new version of "
        "the plan in that store, which the slots follow within a second.",
        epilog=ending(
            "framegate fleet apply fleet.toml --store redis://store.example",
            "framegate fleet status --store redis://store.example",
            "framegate fleet move gate box2 --store redis://store.example",
            "framegate fleet drain box1 --store redis://store.example",
            page=PAGE,
        ),
    )
    command.set_defaults(command=_fleet)
    actions = command.add_subparsers(dest="action", required=True, metavar="ACTION")
    apply = _action(actions, "apply", "make the slots and sources of a file the plan")
    apply.add_argument("file", type=Path, metavar="FILE", help="fleet.toml")
    apply.add_argument(
        "--spread",
        action="store_true",
        help="also move sources from slots with more than 1.1 times their fair load, so that a "
        "new slot gets sources at once",
    )
    diff = _action(actions, "diff", "show what apply would change; nothing is written")
    diff.add_argument("file", type=Path, metavar="FILE", help="fleet.toml")
    diff.add_argument("--spread", action="store_true", help="as with apply")
    status = _action(actions, "status", "show slots, their load, and sources that are not served")
    status.add_argument("--json", action="store_true", help="print JSON")
    move = _action(actions, "move", "let a slot serve these sources")
    move.add_argument("sources", nargs="+", metavar="SOURCE", help="names of sources")
    move.add_argument("slot", metavar="SLOT", help="name of the slot")
    for name, what in (
        ("drain", "move all sources of these slots to other slots, for example before an upgrade"),
        ("undrain", "let drained slots serve sources again"),
    ):
        drain = _action(actions, name, what)
        drain.add_argument("slots", nargs="+", metavar="SLOT", help="names of slots")
    _add_ray(actions)


def _add_ray(actions: Any) -> None:
    """Add the actions that have Ray keep the slots alive."""
    head = _action(actions, "head", "have Ray keep all slots of the plan alive on hosts that join")
    head.add_argument(
        "--heavy",
        type=int,
        default=0,
        metavar="N",
        help="heavy workers to keep alive, one for each gpu of the hosts at most (default: 0)",
    )
    join = _action(actions, "join", "offer the cores of this host to the head of a fleet")
    join.add_argument(
        "-d", dest="data", type=Path, required=True, metavar="DIR", help="folder of data folders"
    )
    join.add_argument(
        "--env-file",
        dest="variables",
        type=Path,
        required=True,
        metavar="FILE",
        help="file with the variables of --store and of url_env, read by the slots on this host",
    )
    join.add_argument(
        "--gpu", type=int, default=0, metavar="N", help="heavy workers for this host (default: 0)"
    )
    for action in (head, join):
        action.add_argument(
            "address",
            type=_head_address,
            metavar="HOST:PORT",
            help="IP address and port of the head on its host",
        )
    join.add_argument(
        "--options",
        default="",
        metavar="WORDS",
        help="further options of framegate run for the slots on this host, in quotes as one word",
    )


def _head_address(text: str) -> str:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise argparse.ArgumentTypeError(f"{text!r}: must be HOST:PORT, such as 10.0.0.5:6380")
    return text


def _action(actions: Any, name: str, what: str) -> argparse.ArgumentParser:
    example = f"framegate fleet {_EXAMPLES[name]} --store env:STORE"
    action: argparse.ArgumentParser = actions.add_parser(
        name,
        help=what,
        description=f"{what[0].upper()}{what[1:]}.",
        epilog=ending(example, page=PAGE),
    )
    action.add_argument(
        "--store",
        required=True,
        metavar="URL",
        help="the store of the fleet; env:NAME reads the URL from a variable",
    )
    if name in ("apply", "move", "drain", "undrain"):
        action.add_argument(
            "--replicas",
            type=int,
            default=0,
            metavar="N",
            help="replicas of the store that must have the plan (default: 0)",
        )
    return action


def _fleet(parsed: argparse.Namespace) -> Exit:
    if parsed.action in ("head", "join"):
        from framegate.cli.fleet.fleet_ray import join, start_head

        return {"head": start_head, "join": join}[parsed.action](parsed)
    url = url_said(parsed.store, "--store")
    assert url is not None
    with closing(FleetStore(url)) as store:
        plan = store.plan() or FleetPlan(store.last_version())
        if parsed.action == "status":
            return _status(store, plan, parsed.json)
        changed = _changed(store, plan, parsed)
        if parsed.action == "diff":
            _print_changes(plan, changed)
            if is_same(plan, changed):
                print(f"nothing would change; the plan is at version {plan.version}")
        elif is_same(plan, changed):
            print(f"nothing to change; the plan stays at version {plan.version}")
        else:
            store.write(changed, parsed.replicas)
            _print_changes(plan, changed)
            print(f"version {changed.version} of the plan is written")
        _print_waiting(changed)
    return Exit.DONE


def _changed(store: FleetStore, plan: FleetPlan, parsed: argparse.Namespace) -> FleetPlan:
    """Return the plan after an action. ConfigFaults, and the errors of FleetStore."""
    if parsed.action in ("apply", "diff"):
        content = read_fleet_file(parsed.file)
        plain = plain_cameras(content)
        if plain:
            to_user.warning(
                "the store shows the whole URL of %s to all of its readers; if a path has a "
                "password, use url_env or look_at_env",
                _listed(plain),
            )
        measured = measured_costs(plan, store.signs(sorted(plan.slots)))
        return apply_content(plan, content, parsed.spread, measured)
    if not plan.version:
        raise ConfigFaults(
            ["the store has no plan of a fleet; framegate fleet apply fleet.toml writes one"]
        )
    changes_by_action: Mapping[str, Callable[[], FleetPlan]] = {
        "move": lambda: move_sources(plan, parsed.sources, parsed.slot),
        "drain": lambda: drain_slots(plan, parsed.slots, is_drained=True),
        "undrain": lambda: drain_slots(plan, parsed.slots, is_drained=False),
    }
    return changes_by_action[parsed.action]()


def measured_costs(plan: FleetPlan, signs: Mapping[str, SlotSign]) -> dict[str, float]:
    """Return the cores of each source, as the slot that the plan gives it to measured them."""
    costs = {}
    for name, source in plan.sources.items():
        sign = signs.get(source.slot)
        if sign is not None and name in sign.costs:
            costs[name] = sign.costs[name]
    return costs


def _print_changes(plan: FleetPlan, changed: FleetPlan) -> None:
    for change in changes(plan, changed):
        print(f"{change.name}: {change.words}")


def _print_waiting(plan: FleetPlan) -> None:
    waiting = plan.waiting()
    if waiting:
        needed = sum(plan.sources[name].cost for name in waiting)
        verb = "waits"
        if len(waiting) > 1:
            verb = "wait"
        print(
            f"{counted(len(waiting), 'source')} {verb} for room ({needed:.2f} cores): "
            f"{_listed(waiting)}; add a slot, or raise the cores of one"
        )


def _listed(names: Sequence[str], most: int = 8) -> str:
    listed = ", ".join(names[:most])
    if len(names) > most:
        return f"{listed}, and {len(names) - most} more"
    return listed


# -- status


class SlotStatus(msgspec.Struct, frozen=True):
    """A slot as `status` shows it.

    state    serving, drained, away (no sign of life for 10 s), or unknown: the plan lacks it
    host     of its process; "" if it is away
    version  version of the plan that it follows; 0 if it is away
    load     CPU cores that its sources need
    http     HOST:PORT at which other hosts reach its HTTP port; "": they cannot, or it is away
    fault    why it cannot follow newer plans; "" if it can
    costs    CPU cores that each of its cameras needed in the last minutes, as the slot measured
    drained  whether it gets no sources; it can be away too, for example during an upgrade
    silent_s  seconds since its last sign of life; 0 if it is away
    """

    slot: str
    state: str
    host: str
    version: int
    cores: float
    load: float
    sources: int
    serves: int
    http: str = ""
    fault: str = ""
    costs: dict[str, float] = {}
    drained: bool = False
    silent_s: float = 0.0


class FleetStatus(msgspec.Struct, frozen=True):
    """The state of a fleet.

    unserved  by source: why no process of its slot serves it
    """

    version: int
    slots: list[SlotStatus]
    sources: int
    unserved: dict[str, str]


def status_of(
    plan: FleetPlan,
    signs: Mapping[str, SlotSign],
    owners: Mapping[str, SourceOwner],
    silent_s: Mapping[str, float],
) -> FleetStatus:
    """Return the state of a fleet, from its plan, signs of life and owners of sources.

    owners    also of sources that left the plan without their last end
    silent_s  seconds since the last sign of life of each slot
    """
    slots = [
        _slot_status(plan, name, signs.get(name), silent_s.get(name, 0.0))
        for name in sorted(plan.slots.keys() | signs.keys())
    ]
    unserved = {}
    for name, source in sorted(plan.sources.items()):
        why = _why_unserved(name, source.slot, signs.get(source.slot), owners[name])
        if why:
            unserved[name] = why
    alive = {sign.run for sign in signs.values()}
    for name in sorted(owners.keys() - plan.sources.keys()):
        if owners[name].run not in alive:  # else its slot is ending it
            unserved[name] = LEFT
    return FleetStatus(plan.version, slots, len(plan.sources), unserved)


def _slot_status(plan: FleetPlan, name: str, sign: SlotSign | None, silent_s: float) -> SlotStatus:
    room = plan.slots.get(name)
    is_drained = room is not None and room.drained
    state = "serving"
    cores = 0.0
    if room is None:
        state = "unknown"
    else:
        cores = room.cores
        if is_drained:
            state = "drained"
    if sign is None:
        state = "away"
        sign = SlotSign("", "", 0, 0)
        silent_s = 0.0
    n_sources = len(plan.sources_of(name))
    return SlotStatus(
        name,
        state,
        sign.host,
        sign.version,
        cores,
        plan.load(name),
        n_sources,
        sign.serves,
        sign.http,
        sign.fault,
        sign.costs,
        is_drained,
        round(silent_s, 1),
    )


def _why_unserved(name: str, slot: str, sign: SlotSign | None, owner: SourceOwner) -> str:
    """Return why no process of its slot serves a source; "" if one does."""
    if not slot:
        return "waits for room"
    if sign is None:
        return f"slot {slot} is away: start framegate run --slot {slot} on a host, or drain it"
    if name in sign.refused:
        return f"slot {slot}: {sign.refused[name]}"
    if owner.run != sign.run:
        if not owner.name:
            return f"slot {slot} has not claimed it so far"
        return f"slot {slot} takes it over from {owner.name}"
    return ""


def _status(store: FleetStore, plan: FleetPlan, as_json: bool) -> Exit:
    signs = store.signs(sorted({*plan.slots, *store.alive()}))
    owners = store.owners(sorted({*plan.sources, *store.unended()}))
    status = status_of(plan, signs, owners, store.silent_s(sorted(signs)))
    if as_json:
        print(msgspec.json.encode(status).decode())
        return Exit.DONE
    sources = counted(status.sources, "source")
    print(f"version {status.version}: {sources}, {counted(len(plan.slots), 'slot')}")
    width = max((len(each.slot) for each in status.slots), default=4)
    states = {each.slot: _state_of(each) for each in status.slots}
    state_width = max(len("drained"), *(len(state) for state in states.values()), 0)
    print(f"{'slot':<{width}}  {'state':<{state_width}}  load  measured  cores  sources  host")
    for each in status.slots:
        host = _host_of(each, status.version)
        measured = "-"
        if each.costs:
            measured = f"{sum(each.costs.values()):.1f}"
        print(
            f"{each.slot:<{width}}  {states[each.slot]:<{state_width}}  {each.load:>4.1f}  "
            f"{measured:>8}  "
            f"{each.cores:>5.1f}  {f'{each.serves}/{each.sources}':>7}  {host}".rstrip()
        )
    for each in status.slots:
        if each.state == "unknown":
            print(f"slot {each.slot}: the plan has no such slot; add [slots.{each.slot}]")
        if each.fault:
            print(f"slot {each.slot}: {each.fault}")
    for name, why in status.unserved.items():
        print(f"source {name}: {why}")
    return Exit.DONE


def _state_of(slot: SlotStatus) -> str:
    if slot.drained and slot.state != "drained":
        return f"{slot.state}, drained"
    return slot.state


def _host_of(slot: SlotStatus, version: int) -> str:
    """Return the host of a slot, its HTTP address, and the version that it follows if not this."""
    if not slot.host:
        return ""
    notes = [slot.http or "no HTTP port for other hosts"]
    if slot.version < version:
        notes.append(f"still follows version {slot.version}")
    if slot.silent_s >= SILENT_S:
        notes.append(f"no sign of life for {slot.silent_s:.0f} s")
    return f"{slot.host} ({', '.join(notes)})"
