"""Standard output as a file has each line once, also where a kill came before the commit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from framegate.pipeline.contracts import records
from framegate.pipeline.contracts.records import START, Position, Record
from framegate.pipeline.contracts.source import Form
from framegate.pipeline.contracts.stage import Item
from framegate.pipeline.engine.context_alone import context_alone
from framegate.pipeline.run.printer import Print, Unbuffered, json_line, lines_of
from tests.support import footage
from tests.support.commands import user_folder
from tests.support.published import result
from tests.support.runs import DEADLINE_S, environment


def item(source: str, seq: int) -> Item:
    said = {"cache": msgspec.Raw(records.encode(result(source, 1, seq)))}
    record = Record(records.VERSION, None, 0.0, 0.0, 0, Form(2, 2), said=said)
    return Item(source, Position(1, seq), record)


def prints(file: Path, items: list[Item]) -> None:
    """A process of its own: opened as a shell does for `>>`, and nothing committed."""
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    context = context_alone(lambda _: None, lambda: 0.0, file.parent, "cache")  # type: ignore[arg-type, return-value]
    out = Unbuffered(descriptor)
    there = lines_of(descriptor)
    Print(context, out, lambda _: None, dict.fromkeys("ab", START), there).process(items, {})
    os.close(descriptor)


def line(source: str, seq: int) -> bytes:
    return json_line(records.encode(result(source, 1, seq)))


def test_what_a_killed_process_printed_is_not_printed_again(tmp_path: Path) -> None:
    file = tmp_path / "out.json"
    file.write_bytes(b"of somebody else\n")
    both = [item(source, seq) for seq in range(4) for source in "ab"]
    prints(file, both[:5])
    with file.open("ab") as torn:
        torn.write(line("b", 2)[:40])
    prints(file, both)
    expected = [line(source, seq) for seq in range(4) for source in "ab"]
    assert file.read_bytes().splitlines(keepends=True) == [b"of somebody else\n", *expected]


def test_a_last_line_of_others_stays(tmp_path: Path) -> None:
    file = tmp_path / "out.json"
    file.write_bytes(b"no end")
    prints(file, [])
    assert file.read_bytes() == b"no end"


def test_a_pipe_has_no_lines() -> None:
    read, write = os.pipe()
    assert lines_of(write) == []
    os.close(read)
    os.close(write)


KILLED = """
import os, signal, sys
from framegate.pipeline.run.printer import Print
process, seen = Print.process, []
def prints(self, batch, states):
    said = process(self, batch, states)
    seen.extend(batch)
    if len(seen) >= 12:
        os.kill(os.getpid(), signal.SIGKILL)
    return said
Print.process = prints
from framegate.cli.main import main
sys.exit(main())
"""


@pytest.mark.whole_run
def test_a_run_that_is_killed_between_a_line_and_its_commit_goes_on_after_the_line(
    tmp_path: Path,
) -> None:
    folder = user_folder(tmp_path / "user")
    footage.write_scene(folder / "clip.mp4", footage.steady(60))
    env = {**environment(), "XDG_STATE_HOME": str(folder / "state")}
    file = folder / "out.json"
    first = ("-c", KILLED, "run", "clip.mp4")
    for words in (first, ("-m", "framegate.cli", "run", "--resume")):
        with file.open("ab") as out:
            ended = subprocess.run(
                [sys.executable, *words, "-d", "data", "--json", "--http", "off"],
                cwd=folder, env=env, stdout=out, stderr=subprocess.PIPE, timeout=DEADLINE_S,
                check=False,
            )  # fmt: skip
        assert ended.returncode == (-signal.SIGKILL if words == first else 0), ended.stderr
    seqs = [msgspec.json.decode(line)["seq"] for line in file.read_bytes().splitlines()]
    assert seqs == list(range(60))
