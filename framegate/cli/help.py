"""The table of commands, and the parts of a help text that commands share.

It imports no other module: `framegate --help` and the answer to a misspelt command load no command.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

EXITS: Final = """\
exit codes: 0 done, 1 a source failed, 2 usage or configuration, 3 store,
  75 another run took over, 130 stopped twice"""


class Command(NamedTuple):
    """A command: its module in framegate.cli, and its sentence in the list of commands."""

    module: str
    summary: str


# The commands by group, those that a new user needs first.
GROUPS: Final[Mapping[str, Mapping[str, Command]]] = {
    "begin": {
        "demo": Command("demo", "run a shipped clip and report its cost"),
        "init": Command("init", "write a configuration file for your cameras"),
        "check": Command("check", "check configuration, sources and this machine"),
        "run": Command("run", "run sources through the pipeline until they end"),
        "doctor": Command("doctor", "report what this machine lacks, and how to get it"),
    },
    "watch and read a run": {
        "watch": Command("watch", "show a live table of a run, from another terminal"),
        "sources": Command("sources", "show each source's state, rate, drops and reconnects"),
        "snapshot": Command("watch", "save the current picture of a source"),
        "results": Command("results", "show the results of a run, also after its end"),
        "recordings": Command("recordings", "list and export recordings"),
        "events": Command("events", "list episodes, also of an ended run"),
        "mcp": Command("mcp", "let an assistant query episodes (Model Context Protocol)"),
    },
    "change an active run": {
        "add": Command("sources", "add sources to an active run"),
        "remove": Command("sources", "remove sources from an active run"),
    },
    "adapt it": {
        "config": Command(
            "config", "print the configuration, the defaults, or the meaning of a key"
        ),
        "tune": Command("tune", "fit the detector to a camera, without labels and training"),
        "train": Command("train", "train a small network for a camera, without labels"),
        "models": Command("models", "add, list, show, use and remove your own models"),
        "learn": Command("learn", "manage the footage that a run keeps for learning"),
    },
    "prove how good results are": {
        "calibrate": Command("calibrate", "compute the threshold of doubt for your footage"),
        "verify": Command("verify", "check certificates of the promise"),
    },
    "more": {
        "worker": Command("worker", "run the heavier model for runs on this or other hosts"),
        "fsck": Command("fsck", "check a data folder, and repair what can be rebuilt"),
    },
}

COMMANDS: Final[dict[str, Command]] = {}
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
