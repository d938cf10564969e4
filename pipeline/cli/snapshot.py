"""`framegate snapshot`: what a source of a run sees now, as a JPEG."""

from __future__ import annotations

import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from framegate.pipeline.errors import ConfigFaults, Exit, FramegateError
from framegate.pipeline.keys import NAME_RULE, is_name
from framegate.pipeline.outputs import Inputs, output_faults, write_whole
from framegate.pipeline.run.rpc import Running, find_run
from framegate.pipeline.web.pictures import AGE, STATE

ANSWER_S = 20.0
STDOUT = Path("-")

# Never over a proxy of the environment: the run is on this host.
_open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open


class NoPicture(FramegateError):
    """There is no picture of the source now; the message says why."""


@dataclass(frozen=True)
class Picture:
    """A JPEG, how many seconds ago it was published, and its source's state if that has a fault."""

    jpeg: bytes
    age_s: float
    state: str | None

    def said(self, source: str) -> str:
        """Of when it is, in words."""
        taken = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(time.time() - self.age_s))
        when = f"{source}: a picture of {self.age_s:.1f} s ago ({taken})"
        return when if self.state is None else f"{when}, its last: the source is {self.state}"


def snapshot(
    source: str, folder: Path | None, file: Path | None, plain: bool, overwrite: bool = False
) -> Exit:
    """Write the picture to `file` (default SOURCE.jpg; `-`: standard output).

    Its age goes to stderr; SOURCE_FAILED if its source is lost or failed, so that it is the last.
    """
    path = file or Path(f"{source}.jpg")
    run = find_run(folder)
    if file != STDOUT and (faults := output_faults("-o", path, Inputs({}), overwrite)):
        raise ConfigFaults(faults)
    picture = fetch(run, source, plain)
    if file == STDOUT:
        sys.stdout.buffer.write(picture.jpeg)
        sys.stdout.buffer.flush()
    else:
        write_whole("-o", path, picture.jpeg, overwrite)
        print(path)
    print(f"framegate: {picture.said(source)}", file=sys.stderr)
    return Exit.DONE if picture.state is None else Exit.SOURCE_FAILED


def fetch(run: Running, source: str, plain: bool) -> Picture:
    """The picture. ConfigFaults without HTTP or for an unknown source; NoPicture."""
    if run.http is None:
        where = f"the run in {run.folder} serves no HTTP"
        raise ConfigFaults([f"{where}, so it gives no pictures; start it with --http"])
    if not is_name(source):
        raise ConfigFaults([f"source {source!r}: allowed as a name: {NAME_RULE}"])
    url = f"http://{run.http}/snapshot/{source}.jpg{'?plain=1' if plain else ''}"
    try:
        with _open(url, timeout=ANSWER_S) as answer:
            return Picture(answer.read(), float(answer.headers[AGE]), answer.headers.get(STATE))
    except urllib.error.HTTPError as error:
        said = error.read().decode(errors="replace").strip()
        if error.code == 404:
            raise ConfigFaults([said]) from error
        raise NoPicture(said) from error
    except OSError as error:
        raise NoPicture(f"http://{run.http}: the run gives no picture: {error}") from error
