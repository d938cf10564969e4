"""How `framegate fsck` shows what it found."""

from __future__ import annotations

import io

from rich.console import Console

from framegate.cli.fsck import table
from framegate.pipeline.fsck.snapshot import Discrepancy


def test_a_name_with_brackets_is_shown_as_it_is() -> None:
    """Rich takes such words for markup: it hides them, or refuses the whole table."""
    found = Discrepancy("fault", "gate/[red]x[/y].mp4", "[bold]", "[/bold]", "set [record] bytes")
    console = Console(file=io.StringIO(), width=200)
    console.print(table([found]))
    assert isinstance(console.file, io.StringIO)
    for word in ("gate/[red]x[/y].mp4", "[bold]", "[/bold]", "set [record] bytes"):
        assert word in console.file.getvalue()
