"""Count the files of this repository that a frame, an added source, a model swap and an audit pass.

    python -m tools.trace_files [CASE ...] [--list]

Each case starts `framegate` on the clip of `framegate demo`. A profile function in every Python
process of the run notes each call of a function of `framegate`, `pipeline`, `models` or `stages`:
the function, and the time. A file is passed if such a function runs. The code of a module or class
body, and what it calls while the module is imported, does not count. `hop.lua` counts if `hop.py`
is passed.

frame   files of the worker over STEADY frames, after WARM frames. A file counts if a function of it
        is called once or more per frame that the network looks at, so timers and rare events do
        not. The clip plays at FPS frames per second
source  files of the command, the supervisor and the worker between the start of `framegate add`
        and the moment at which the decoder writes the pixels of the first frame. The run has no
        source before
swap    the same between the start of `framegate models use` and the first result of the new model
audit   files of the worker while [promise] draws and judges audits

A run does other work at the same time: a swap happens while frames pass, and timers run. So for
a source, a swap and an audit, a function does not count if it also runs without: in the same run in
the seconds before, or, for an audit, in a run without [promise].
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Final, NamedTuple

ROOT: Final = Path(__file__).resolve().parents[1]
PRODUCT: Final = ("framegate", "pipeline", "models", "stages")
HOP: Final = "pipeline/store/hop.py"
HOP_LUA: Final = "pipeline/store/hop.lua"
WRITE_PIXELS: Final = ("stages/decode/frame.py", "DecodedFrame.write")
WORKER: Final = "framegate.pipeline.run.worker_main"
NO_FUNCTION: Final = -1
OPTIMIZED: Final = 1  # the flag of a function's code; a module or class body has none
FPS: Final = 3  # more than the timers of a run have
WARM: Final = 8
STEADY: Final = 40
REPEATS: Final = 8
IDLE_S: Final = 6.0  # longer than the timers of a run
LONGEST_S: Final = 300.0

_call = struct.Struct("<Id")


# -- In a process of the run: note the calls


def record(folder: Path) -> None:
    """Note each call of a product function in this process: `PID.calls`, `PID.functions`."""
    calls = os.open(folder / f"{os.getpid()}.calls", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    functions = (folder / f"{os.getpid()}.functions").open("w", buffering=1)
    functions.write(f"{_module(sys.orig_argv)}\n")
    numbers: dict[CodeType, int] = {}
    count = 0

    def number_of(code: CodeType) -> int:
        nonlocal count
        file = Path(os.path.realpath(code.co_filename))
        is_function = bool(code.co_flags & OPTIMIZED)
        is_product = file.is_relative_to(ROOT) and file.relative_to(ROOT).parts[0] in PRODUCT
        if not is_function or not is_product:
            return NO_FUNCTION
        functions.write(f"{file.relative_to(ROOT)}\t{code.co_qualname}\n")
        count += 1
        return count - 1

    def note(frame: FrameType, event: str, _: Any) -> None:
        if event != "call":
            return
        code = frame.f_code
        number = numbers.get(code)
        if number is None:
            number = numbers[code] = number_of(code)
        if number != NO_FUNCTION and not _is_import(frame):
            os.write(calls, _call.pack(number, time.time()))

    threading.setprofile(note)
    sys.setprofile(note)


def _module(words: Sequence[str]) -> str:
    """Return the module that a process runs: the word after -m."""
    for option, module in itertools.pairwise(words):
        if option == "-m":
            return module
    return ""


def _is_import(frame: FrameType) -> bool:
    caller: FrameType | None = frame
    while caller is not None:
        if caller.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        caller = caller.f_back
    return False


# -- In the maintainer's process: start a run, and read what its processes noted


class Function(NamedTuple):
    """A function of the product. file: relative to the repository"""

    file: str
    name: str


class Call(NamedTuple):
    """A call of a function: its process, the module that the process runs, and UNIX seconds."""

    pid: int
    module: str
    function: Function
    at_s: float


class TracedRun:
    """A run of which every Python process notes its calls, in a temporary folder."""

    def __init__(self, folder: Path) -> None:
        self.data = folder / "data"
        self.data.mkdir()
        self._folder = folder
        self._traces = folder / "traces"
        self._traces.mkdir()
        hook = folder / "hook"
        hook.mkdir()
        (hook / "sitecustomize.py").write_text(
            "from pathlib import Path\n"
            "from tools.trace_files import record\n"
            f"record(Path({str(self._traces)!r}))\n"
        )
        path = [str(hook), str(ROOT), os.environ.get("PYTHONPATH", "")]
        self._environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path))}

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        """Start a command of `framegate`. Its log is shown if it fails."""
        with (self._folder / "log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "framegate", *words],
                cwd=self._folder,
                env=self._environment,
                stdout=log,
                stderr=log,
            )

    def command(self, *words: str) -> float:
        """Run a command to its end, and return the UNIX time of its start."""
        began_s = time.time()
        if self.start(*words).wait(LONGEST_S):
            raise SystemExit(self.log)
        return began_s

    @property
    def log(self) -> str:
        """Return what the commands wrote."""
        return (self._folder / "log").read_text()

    def calls(self) -> list[Call]:
        """Return all calls so far, in the order of their times."""
        calls = []
        for file in self._traces.glob("*.calls"):
            pid = int(file.stem)
            module, *lines = file.with_suffix(".functions").read_text().splitlines()
            functions = [Function(*line.split("\t")) for line in lines]
            noted = file.read_bytes()
            whole = len(noted) // _call.size * _call.size
            for number, at_s in _call.iter_unpack(noted[:whole]):
                calls.append(Call(pid, module, functions[number], at_s))
        return sorted(calls, key=lambda call: call.at_s)


@contextmanager
def running(run: TracedRun, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    """Start `framegate run`, and interrupt it at the end of the block."""
    process = run.start("run", "-d", str(run.data), *words)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(LONGEST_S)


def until(run: TracedRun, subject: str, condition: Callable[[], Any]) -> Any:
    """Return the first true value of `condition`; end with the log of the run if none comes."""
    from framegate.errors import FramegateError

    end = time.monotonic() + LONGEST_S
    while time.monotonic() < end:
        with contextlib.suppress(OSError, FramegateError):
            value = condition()
            if value:
                return value
        time.sleep(0.1)
    raise SystemExit(f"not in {LONGEST_S:.0f} s: {subject}\n{run.log}")


@dataclass(frozen=True)
class Published:
    """A result: the UNIX time of its publication, whether a network looked, and its models."""

    at_s: float
    is_looked: bool
    models: tuple[str, ...]


def follow(run: TracedRun, is_last: Callable[[list[Published]], bool]) -> list[Published]:
    """Return the results from now on, until `is_last` is true of them."""
    from framegate import subscribe
    from framegate.pipeline.run.rpc import find_run

    until(run, "the run has a store", lambda: find_run(run.data).store)
    results: list[Published] = []
    with subscribe(run.data, start="new") as subscription:
        for result in subscription:
            is_looked = result.looked != "no"
            results.append(Published(result.published, is_looked, tuple(result.models)))
            if is_last(results):
                return results
    raise SystemExit(f"the run ended\n{run.log}")


def files_of(functions: set[Function]) -> set[str]:
    """Return the files of functions, with hop.lua."""
    files = {function.file for function in functions}
    if HOP in files:
        files.add(HOP_LUA)
    return files


def between(calls: Sequence[Call], begin_s: float, end_s: float) -> set[Function]:
    """Return the functions that were called in a span of time."""
    return {call.function for call in calls if begin_s < call.at_s <= end_s}


# -- The cases


SLOW: Final = ("--pace", "realtime", "--frames", f"max_fps={FPS}")


def clip() -> str:
    """Return the demo clip as a source of the command line."""
    from framegate.cli.demo import shipped_clip

    return f"street={shipped_clip()}"


def long_clip(folder: Path) -> str:
    """Return the demo clip, repeated, as a source of the command line."""
    from framegate.cli.demo import shipped_clip
    from tests.support.footage import repeat

    file = folder / "street.mp4"
    repeat(shipped_clip(), file, REPEATS)
    return str(file)


def frame(folder: Path) -> set[Function]:
    """Return the functions that a steady frame calls."""
    run = TracedRun(folder)
    with running(run, clip(), *SLOW):
        results = follow(run, lambda results: len(results) > WARM + STEADY)
    looked = sum(result.is_looked for result in results[WARM + 1 :])
    calls = Counter(
        call.function
        for call in run.calls()
        if call.module == WORKER and results[WARM].at_s < call.at_s <= results[-1].at_s
    )
    print(f"frame: the network looks at {looked} of {STEADY} frames")
    return {function for function, count in calls.items() if count >= looked}


def source(folder: Path) -> set[Function]:
    """Return the functions that an added source calls."""
    run = TracedRun(folder)
    with running(run, "--resume"):
        until(run, "the run waits for sources", lambda: "no source yet" in run.log)
        until(run, "the worker is ready", lambda: _is_ready(run))
        time.sleep(IDLE_S)
        began_s = run.command("add", clip(), "-d", str(run.data))
        ended_s = until(run, "the first frame", lambda: _first(run, began_s))
    return _own(run.calls(), began_s - IDLE_S, began_s, ended_s)


def _is_ready(run: TracedRun) -> bool:
    import urllib.request

    from framegate.pipeline.run.rpc import find_run

    with urllib.request.urlopen(f"http://{find_run(run.data).http}/readyz") as answer:
        return bool(answer.status == 200)


def _first(run: TracedRun, began_s: float) -> float | None:
    for call in run.calls():
        if call.function == Function(*WRITE_PIXELS) and call.at_s > began_s:
            return call.at_s
    return None


def swap(folder: Path) -> set[Function]:
    """Return the functions that the swap of a model calls."""
    from tests.support.own_models import own_model

    run = TracedRun(folder)
    registry = folder / "registry"
    own_model(registry, "mine")
    with running(run, long_clip(folder), *SLOW):
        before = follow(run, lambda results: len(results) > WARM + 2 * STEADY)
        began_s = run.command(
            "models", "use", "mine", "-d", str(run.data), "--registry", str(registry)
        )
        results = follow(run, lambda results: results[-1].models[0].startswith("mine"))
    return _own(run.calls(), before[WARM].at_s, began_s, results[-1].at_s)


def _own(calls: list[Call], before_s: float, began_s: float, ended_s: float) -> set[Function]:
    """Return the functions of a span that were not called in the span before it."""
    return between(calls, began_s, ended_s) - between(calls, before_s, began_s)


AUDITED: Final = '[escalate]\nplace = "local"\ndoubt = 1.0\n'
PROMISED: Final = '[promise]\nmeasure = "counts"\nframes = 20\naudited = 0.3\n'


def audit(folder: Path) -> set[Function]:
    """Return the functions that audits call, with the close of a period."""
    functions = []
    for name, text in (("without", AUDITED), ("with", AUDITED + PROMISED)):
        (folder / name).mkdir()
        run = TracedRun(folder / name)
        (folder / name / "pipeline.toml").write_text(text)
        with running(run, clip(), *SLOW):
            results = follow(run, lambda results: len(results) > WARM + 2 * STEADY)
        calls = [call for call in run.calls() if call.module == WORKER]
        functions.append(between(calls, results[WARM].at_s, results[-1].at_s))
    return functions[1] - functions[0]


CASES: Final = {"frame": frame, "source": source, "swap": swap, "audit": audit}


def main() -> None:
    """Count the files of the cases, and list them if asked."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cases", nargs="*", metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--list", action="store_true", help="list the files with their functions")
    parsed = parser.parse_args()
    for name in parsed.cases or CASES:
        with tempfile.TemporaryDirectory(prefix="framegate-trace-") as folder:
            functions = CASES[name](Path(folder))
        files = files_of(functions)
        print(f"{name}: {len(files)} files, {len(functions)} functions")
        if parsed.list:
            for file in sorted(files):
                names = sorted(each.name for each in functions if each.file == file)
                print(f"  {file}: {', '.join(names)}")


if __name__ == "__main__":
    main()
