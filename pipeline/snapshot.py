"""`framegate snapshot`: what a source of a run sees now, as a JPEG."""

from __future__ import annotations

import sys
import urllib.error
import urllib.request
from pathlib import Path

from pipeline.errors import ConfigFaults, Exit, FramegateError
from pipeline.keys import NAME_RULE, is_name
from pipeline.outputs import Inputs, output_faults, write_whole
from pipeline.running import Running, find_run

ANSWER_S = 20.0
STDOUT = Path("-")

# Never over a proxy of the environment: the run is on this host.
_open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open


class NoPicture(FramegateError):
    """There is no picture of the source now; the message says why."""


def snapshot(
    source: str, folder: Path | None, file: Path | None, plain: bool, overwrite: bool
) -> Exit:
    """Write the picture to `file` (default SOURCE.jpg; `-`: standard output)."""
    path = file or Path(f"{source}.jpg")
    run = find_run(folder)
    if file != STDOUT and (faults := output_faults("-o", path, Inputs({}), overwrite)):
        raise ConfigFaults(faults)
    jpeg = fetch(run, source, plain)
    if file == STDOUT:
        sys.stdout.buffer.write(jpeg)
        sys.stdout.buffer.flush()
        return Exit.DONE
    write_whole("-o", path, jpeg, overwrite)
    print(path)
    return Exit.DONE


def fetch(run: Running, source: str, plain: bool) -> bytes:
    """The JPEG. ConfigFaults without HTTP or for an unknown source; NoPicture."""
    if run.http is None:
        where = f"the run in {run.folder} serves no HTTP"
        raise ConfigFaults([f"{where}, so it gives no pictures; start it with --http"])
    if not is_name(source):
        raise ConfigFaults([f"source {source!r}: allowed as a name: {NAME_RULE}"])
    url = f"http://{run.http}/snapshot/{source}.jpg{'?plain=1' if plain else ''}"
    try:
        with _open(url, timeout=ANSWER_S) as answer:
            jpeg: bytes = answer.read()
            return jpeg
    except urllib.error.HTTPError as error:
        said = error.read().decode(errors="replace").strip()
        if error.code == 404:
            raise ConfigFaults([said]) from error
        raise NoPicture(said) from error
    except OSError as error:
        raise NoPicture(f"http://{run.http}: the run gives no picture: {error}") from error
