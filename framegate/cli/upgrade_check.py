"""`framegate upgrade-check`: what this version makes of what an older one left, before it does."""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec

from framegate.cli.arguments import ending
from framegate.cli.check import Report
from framegate.pipeline.config.config import Config, find_config, read_config
from framegate.pipeline.contracts import keys, records
from framegate.pipeline.contracts.errors import ConfigFaults, Exit, RecordTooNew, StoreRefused
from framegate.pipeline.contracts.results import Result
from framegate.pipeline.run.ended import open_store
from framegate.pipeline.run.folder import VERSION, read_run, written_by
from framegate.pipeline.store.client import connect, store_errors
from framegate.pipeline.system.loading import load, ours

_MOVED = re.compile(r'(use\s*=\s*["\'])(stages|models|pipeline)\.')


def register(commands: Any) -> None:
    """Add the command to the command line."""
    command = commands.add_parser(
        "upgrade-check",
        help="say what an upgrade changes or refuses; change nothing",
        description="Reads a configuration, a run's data folder with its store, and the registry "
        "of models as this version would, and says what it refuses and what to do about that. "
        "Changes nothing, also beside a run that goes on. Exit code 2 if something is refused.",
        epilog=ending("framegate upgrade-check -c pipeline.toml -d data", page="upgrading"),
    )
    command.set_defaults(command=_upgrade_check)
    command.add_argument("-c", dest="config", type=Path, metavar="FILE", help="configuration")
    command.add_argument("-d", dest="data", type=Path, metavar="DATA", help="a run's data folder")


def _upgrade_check(parsed: argparse.Namespace) -> Exit:
    return upgrade_check(parsed.config, parsed.data)


def upgrade_check(file: Path | None, folder: Path | None) -> Exit:
    """Look at all of it, print what was found; USAGE (2) if something is refused."""
    report = Report()
    report.say("framegate", version("framegate"))
    config = None
    with report.watching("configuration"):
        origin, text = find_config(file)
        config = _read(origin, text)
        report.say("configuration", f"{origin}: read as it is")
    if folder is not None:
        with report.watching("data folder"):
            _look_at_run(folder, report)
        _look_at_certificates(folder / "certificates", report)
        _look_at_footage(folder, report)
        if config is not None:
            with report.watching("store"):
                report.say("store", _look_at_store(folder, config))
        _look_at_models(folder / "models", report)
    _look_at_models(None, report)
    report.say("result", report.verdict())
    return Exit.USAGE if report.faults else Exit.DONE


def _read(origin: str, text: str) -> Config:
    """ConfigFaults with all that is wrong, also behind paths of stages that have moved."""
    try:
        return read_config(origin, text)
    except ConfigFaults as faults:
        moved = _MOVED.sub(r"\1framegate.\2.", text)
        if moved == text:
            raise
        told = [fault for fault in faults.faults if ": it is framegate." in fault]
        try:
            read_config(origin, moved)
        except ConfigFaults as more:
            told += more.faults
        raise ConfigFaults(told) from None


def _look_at_run(folder: Path, report: Report) -> None:
    run = read_run(folder)
    if run is None:
        report.say("data folder", f"{folder}: no run was ever in it")
        return
    report.say(
        "data folder", f"{folder}: of framegate {written_by(folder)}, run.json of version {run.v}"
    )
    if run.v < VERSION:
        report.say(
            "data folder",
            f"the next start writes it as version {VERSION}; an older Framegate refuses it then",
        )


def _look_at_certificates(folder: Path, report: Report) -> None:
    # Here, because it brings numpy and scipy, and no other command is to wait for these.
    from framegate.pipeline.promise.certificate import read_certificate, read_declaration

    versions = Counter[int]()
    for path in sorted(folder.rglob("*.json")):
        with report.watching("certificates", f"{path.name}: "):
            is_declared = path.name.endswith(".declared.json")
            read = (read_declaration if is_declared else read_certificate)(path.read_bytes())
            versions[read.v] += not is_declared
    told = ", ".join(f"{count} of version {v}" for v, count in sorted(versions.items()) if count)
    if told:
        report.say("certificates", f"{told}: read as they are")


def _look_at_footage(folder: Path, report: Report) -> None:
    if not (folder / "footage").is_dir():
        return
    found = ours("kept_frames")(folder).values()
    told = f"{sum(len(kept.files) for kept in found)} frames: read as they are"
    if unreadable := sum(len(kept.unreadable) for kept in found):
        told += f"; {unreadable} files are not: cut short, or a newer Framegate wrote them"
    report.say("footage", told)


def _look_at_store(folder: Path, config: Config) -> str:
    """What the stages of the configuration could go on with. StoreRefused with all that cannot be
    read.
    """
    if config.store.place() is None:
        with open_store(folder) as opened:
            return _states(opened.url, config)
    return _states(config.store.place() or "", config)


def _states(url: str, config: Config) -> str:
    faults: list[str] = []
    kinds = {stage.name: load(stage.use).State for stage in config.stages if stage.input}
    with store_errors(url), closing(connect(url)) as client:
        sources = sorted(name.decode() for name in client.hkeys(keys.SOURCES))
        for source in sources:
            for stage, kind in kinds.items():
                state = client.hget(keys.at(source, stage), "s")
                try:
                    if state:
                        records.decode(state, kind)
                except msgspec.MsgspecError as error:
                    faults.append(
                        f"source {source}: what stage {stage} has stored does not fit it any more: "
                        f"{error}; give the stage or the source another name, or begin a new run"
                    )
            faults += _newest(client.xrevrange(keys.results(source), count=1), source)
    if faults:
        raise StoreRefused("\n".join(faults))
    return f"results and states of {', '.join(sources) or 'no source'}: read as they are"


def _newest(entries: Sequence[tuple[bytes, dict[bytes, bytes]]], source: str) -> list[str]:
    """What is wrong with a source's newest result: a newer Framegate's are not read."""
    for _, fields in entries:
        if fields.get(b"k") == b"frame":
            try:
                records.decode_versioned(fields[b"d"], Result)
            except (RecordTooNew, msgspec.MsgspecError) as error:
                return [f"source {source}: {error}"]
    return []


def _look_at_models(root: Path | None, report: Report) -> None:
    registry = ours("registry")(root)
    models, broken = registry.all_models()
    for one in broken:
        with report.watching("models"):
            raise ConfigFaults([f"{one.path}: {one.why}; framegate models add adds it anew"])
    if models:
        report.say("models", f"{len(models)} in {registry.root}: read as they are")
