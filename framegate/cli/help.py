"""The table of commands, and the parts of a help text that commands share.

It imports no other module: `framegate --help` and the answer to a misspelt command load no command.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

EXITS: Final = """\
exit codes: 0 done, 1 a source failed, 2 usage or configuration, 3 store,
  75 another run took over, 130 stopped twice"""


class ListedCommand(NamedTuple):
    """A command: its module in framegate.cli, and its sentence in the list of commands."""

    module: str
    summary: str


# The commands by group, those that a new user needs first.
GROUPS: Final[Mapping[str, Mapping[str, ListedCommand]]] = {
    "begin": {
        "demo": ListedCommand("demo", "run a shipped clip and report its cost"),
        "init": ListedCommand("setup.init", "write a configuration file for your cameras"),
        "check": ListedCommand("setup.check", "check configuration, sources and this machine"),
        "run": ListedCommand("run", "run sources through the pipeline until they end"),
        "doctor": ListedCommand("doctor", "report what this machine lacks, and how to get it"),
    },
    "watch and read a run": {
        "watch": ListedCommand(
            "control.watch", "show a live table of a run, from another terminal"
        ),
        "sources": ListedCommand(
            "control.sources", "show each source's state, rate, drops and reconnects"
        ),
        "snapshot": ListedCommand("control.watch", "save the current picture of a source"),
        "results": ListedCommand("review.results", "show the results of a run, also after its end"),
        "recordings": ListedCommand("review.recordings", "list and export recordings"),
        "events": ListedCommand("review.events", "list when rules were true (episodes)"),
        "unseen": ListedCommand("review.unseen", "list what was not watched, recorded or judged"),
        "visits": ListedCommand("review.visits", "search tracked objects by words or by example"),
        "changes": ListedCommand("review.changes", "list when a region of a source changed"),
        "mcp": ListedCommand(
            "review.mcp", "let an assistant query episodes (Model Context Protocol)"
        ),
    },
    "change an active run": {
        "add": ListedCommand("control.sources", "add sources to an active run"),
        "remove": ListedCommand("control.sources", "remove sources from an active run"),
        "rules": ListedCommand("control.rules", "show and change rules, areas, profiles and sinks"),
        "filters": ListedCommand(
            "control.filters", "list, add and remove filters of detected objects"
        ),
    },
    "adapt the detector and the settings": {
        "config": ListedCommand(
            "config", "print the configuration, the defaults, or the meaning of a key"
        ),
        "tune": ListedCommand("learning.tune", "fit the detector to a camera, without training"),
        "train": ListedCommand(
            "learning.train", "train a small network for a camera, without labels"
        ),
        "models": ListedCommand(
            "own_models.models", "add, list, show, use and remove your own models"
        ),
        "learn": ListedCommand(
            "learning.learn", "manage the pictures that a run keeps for training"
        ),
    },
    "measure how good results are": {
        "calibrate": ListedCommand("accuracy.calibrate", "choose when the heavier model is asked"),
        "diff": ListedCommand(
            "accuracy.diff", "compare the results of two runs over the same footage"
        ),
        "verify": ListedCommand(
            "accuracy.verify", "check certificates about the share of wrong frames"
        ),
    },
    "more": {
        "fleet": ListedCommand("fleet.fleet", "spread sources over slots on several hosts"),
        "worker": ListedCommand(
            "fleet.worker", "run the heavier model for runs on this or other hosts"
        ),
        "account": ListedCommand("account", "add accounts of the live page: role, sources"),
        "fsck": ListedCommand("fsck", "check a data folder, and repair what can be rebuilt"),
    },
}

COMMANDS: Final[dict[str, ListedCommand]] = {}
for _group in GROUPS.values():
    COMMANDS.update(_group)


def ending(*examples: str, page: str, more: str = "") -> str:
    """Return the end of a command's help: `more`, examples, and the page of the documents."""
    listed = "\n".join(["examples:", *(f"  {example}" for example in examples)])
    parts = [more, listed, f"documents: docs/{page}.md"]
    return "\n\n".join(part for part in parts if part)


def list_of_commands() -> str:
    """Return all commands by group, each with its sentence."""
    groups = []
    for title, commands in GROUPS.items():
        lines = [f"{title}:"]
        lines += [f"  {name:<14}{command.summary}" for name, command in commands.items()]
        groups.append("\n".join(lines))
    return "\n\n".join(groups)
