"""Whatever a process says, it says as lines of one form, and no secret is in them."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import subprocess
import sys
import termios
from datetime import datetime
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from framegate.pipeline.contracts import redaction
from framegate.pipeline.system.logs import JsonLines, TextLines
from tests.support.runs import DEADLINE_S, environment

MARK = "Hunter2"
FORMS = ("text", "json")

SAYS = """
import asyncio, gc, logging, sys, threading, warnings
import av
from framegate.pipeline.system.logs import set_up_logging, to_user
from framegate.pipeline.contracts.redaction import remember

URL = "rtsp://admin:Hunter2@127.0.0.1:1/live?token=Hunter2"
remember("Hunter2 plainly")
set_up_logging("DEBUG", "ingest", sys.argv[1])
logging.info("opening %s", URL)
logging.getLogger("uvicorn.error").error("at %s", URL)
to_user.error("no camera at %s", URL)
logging.info("two %s", URL, URL)
logging.getLogger("httpx").info("HTTP Request: POST")
warnings.warn(f"old: {URL}")

def open_it():
    try:
        raise OSError(f"the camera said Hunter2 plainly")
    except OSError as error:
        raise ValueError(f"cannot open {URL}") from error

thread = threading.Thread(target=open_it, name="decode-gate")
thread.start()
thread.join()

class Held:
    def __del__(self):
        open_it()

Held()
gc.collect()

async def forgotten():
    asyncio.get_running_loop().create_task(fails())
    await asyncio.sleep(0)
    await asyncio.sleep(0)

async def fails():
    open_it()

asyncio.run(forgotten())
gc.collect()
try:
    av.open(URL, timeout=(1, 1))
except OSError:
    pass
open_it()
"""


def said(form: str) -> str:
    """What such a process says on stderr."""
    command = [sys.executable, "-c", SAYS, form]
    ended = subprocess.run(
        command, env=environment(), capture_output=True, text=True, check=False, encoding="utf-8"
    )
    assert ended.returncode == 1
    assert ended.stdout == ""
    return ended.stderr


@pytest.mark.parametrize("form", FORMS)
def test_no_secret_is_said_by_anybody(form: str) -> None:
    text = said(form)
    assert MARK not in text
    assert "HTTP Request" not in text
    for word in (
        "opening rtsp://127.0.0.1:1/***",
        "no camera at rtsp://127.0.0.1:1/***",
        "with arguments that do not fit",
        "UserWarning: old: rtsp://127.0.0.1:1/***",
        "thread decode-gate ended by an unexpected error",
        "Task exception was never retrieved",
        "ended by an unexpected error",
        "OSError: the camera said ***",
        "ValueError: cannot open rtsp://127.0.0.1:1/***",
        "in open_it",
    ):
        assert word in text, text


def test_json_is_one_object_a_line() -> None:
    lines = [json.loads(line) for line in said("json").splitlines()]
    assert {line["part"] for line in lines} == {"ingest"}
    assert {frozenset(line) - {"exception"} for line in lines} == {
        frozenset({"time", "level", "part", "message"})
    }
    assert all(datetime.fromisoformat(line["time"]).utcoffset() is not None for line in lines)
    assert lines[-1]["level"] == "CRITICAL"
    assert lines[-1]["exception"].endswith("ValueError: cannot open rtsp://127.0.0.1:1/***")


passwords = st.tuples(st.text(max_size=8), st.text(max_size=8)).map(MARK.join)


@given(passwords, st.sampled_from([TextLines, JsonLines]))
def test_the_password_of_a_url_that_was_given_is_in_no_line(
    password: str, lines: type[logging.Formatter]
) -> None:
    encoded = quote(password, safe="", errors="replace")
    redaction.remember_url(f"rtsp://admin:{encoded}@cam/1")
    redaction.remember(password)
    error = OSError(f"401 for {password}", encoded)
    record = logging.LogRecord(
        "x", logging.ERROR, "", 0, "%s and %r", (password, password), (OSError, error, None)
    )
    assert MARK not in lines("ingest").format(record)


TABLE = """
import logging, sys
from rich.console import Console
from rich.live import Live
from rich.table import Table
from framegate.pipeline.system.logs import set_up_logging

set_up_logging("INFO", "run")
table = Table("source")
table.add_row("door")
with Live(console=Console(stderr=True), auto_refresh=False, transient=True) as live:
    for second in range(3):
        live.update(table, refresh=True)
        logging.warning("worker %d ended", second)
    live.update(table, refresh=True)
    logging.info("draining")
Console(stderr=True).print(table)
"""


def test_what_is_said_while_a_table_is_shown_stays_above_it() -> None:
    """The next picture of the table rubs none of it out, and leaves nothing of the one before."""
    ours, terminal = os.openpty()
    termios.tcsetwinsize(terminal, (24, 80))
    subprocess.run([sys.executable, "-c", TABLE], stderr=terminal, timeout=DEADLINE_S, check=True)
    os.close(terminal)
    said = b""
    with contextlib.suppress(OSError):  # EIO: nothing is left
        while data := os.read(ours, 65536):
            said += data
    os.close(ours)
    screen = _seen(said.decode())
    words = [line.split(": ")[1] for line in screen if ": " in line]
    assert words == ["worker 0 ended", "worker 1 ended", "worker 2 ended", "draining"], screen
    assert sum("source" in line for line in screen) == 1, screen


def _seen(said: str) -> list[str]:
    """What a terminal shows after this; of its words, those that a table uses."""
    lines, row, column = [""], 0, 0
    for text, code, letter in re.findall(r"([^\x1b]+)|\x1b\[([\d;?]*)([a-zA-Z])", said):
        if letter == "A":
            row -= int(code or 1)
        elif letter == "K":
            lines[row] = ""
        for character in text:
            if character == "\r":
                column = 0
            elif character == "\n":
                row += 1
                lines += [""] * (row + 1 - len(lines))
            else:
                lines[row] = (
                    lines[row][:column].ljust(column) + character + lines[row][column + 1 :]
                )
                column += 1
    return [line for line in lines if line.strip()]
