"""Lines for people: on a terminal broken between words where they are too long, elsewhere whole."""

from __future__ import annotations

import shutil
import sys
from textwrap import fill


def say(text: str, head: str = "") -> None:
    """Print a text of one line, after `head`; what does not fit stands below its beginning."""
    said = f"{head}{text}".rstrip()
    columns = shutil.get_terminal_size().columns
    if len(said) >= columns and sys.stdout.isatty():
        indent = " " * len(head)
        said = fill(
            text, columns - 1, initial_indent=head, subsequent_indent=indent,
            break_long_words=False, break_on_hyphens=False,
        )  # fmt: skip
    print(said, flush=True)
