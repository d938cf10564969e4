"""Standard output as a file has each line once, also where a kill came before the commit."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from pipeline import records
from pipeline.printer import Print, Unbuffered, json_line, lines_of
from pipeline.records import START, Position, Record
from pipeline.source import Form
from pipeline.stage import Context, Item
from tests.pipeline.published import result


def item(source: str, seq: int) -> Item:
    said = {"cache": msgspec.Raw(records.encode(result(source, 1, seq)))}
    record = Record(records.VERSION, None, 0.0, 0.0, 0, Form(2, 2), said=said)
    return Item(source, Position(1, seq), record)


def prints(file: Path, items: list[Item]) -> None:
    """A process of its own: opened as a shell does for `>>`, and nothing committed."""
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    context = Context(lambda _: None, lambda: 0.0, file.parent, "cache")  # type: ignore[arg-type, return-value]
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
