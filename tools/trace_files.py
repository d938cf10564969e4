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
        and the first result of the source
swap    the same between the start of `framegate models use` and the first result of the new model
audit   files of the worker while [promise] draws and judges audits

A run does other work at the same time: frames of another source pass, and timers run. So for a
source, a swap and an audit, a function does not count if it also runs without: in the same run in
the steady time before and after, or, for an audit, in a run without [promise].
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
from math import inf
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Final, NamedTuple

ROOT: Final = Path(__file__).resolve().parents[1]
PRODUCT: Final = ("framegate", "pipeline", "models", "stages")
HOP: Final = "pipeline/store/hop.py"
HOP_LUA: Final = "pipeline/store/hop.lua"
WORKER: Final = "framegate.pipeline.run.worker_main"
NO_FUNCTION: Final = -1
OPTIMIZED: Final = 1  # the flag of a function's code; a module or class body has none
FPS: Final = 3  # more than the timers of a run have
WARM: Final = 8
STEADY: Final = 40
TIMERS_S: Final = 65  # longer than the longest period of a timer of a run that counts here
REPEATS: Final = 8
REST_S: Final = 2.0  # after which a command has no effect on the calls any more
LONGEST_S: Final = 300.0

_call = struct.Struct("<Id")


# -- In a process of the run: note the calls


class Function(NamedTuple):
    """A function of the product. file: relative to the repository"""

    file: str
    name: str


class Recorder:
    """Notes each call of a product function in this process: `PID.calls` and `PID.functions`.

    A function's number in `calls` is the number of its line in `functions`, after the first line
    with the module of the process. A forked process has files of its own.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open()
        os.register_at_fork(after_in_child=self._open)

    def _open(self) -> None:
        begin = self._folder / str(os.getpid())
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._calls = os.open(begin.with_suffix(".calls"), flags)
        self._functions = begin.with_suffix(".functions").open("w", buffering=1, encoding="utf-8")
        self._functions.write(f"{_module(sys.orig_argv)}\n")
        self._numbers: dict[CodeType, int] = {}
        self._count = 0
        self._turn = threading.Lock()  # so that a function's number is that of its line

    def note(self, frame: FrameType, event: str, _: Any) -> None:
        """Note a call. The interpreter calls this for every event."""
        if event != "call":
            return
        code = frame.f_code
        number = self._numbers.get(code)
        if number is None:
            number = self._numbers[code] = self._number_of(code)
        if number != NO_FUNCTION and not _is_import(frame):
            os.write(self._calls, _call.pack(number, time.time()))

    def _number_of(self, code: CodeType) -> int:
        function = _product_function(code)
        if function is None:
            return NO_FUNCTION
        with self._turn:
            self._functions.write(f"{function.file}\t{function.name}\n")
            self._count += 1
            return self._count - 1


def record(folder: Path) -> None:
    """Note the calls of this process, of all threads that start from now on."""
    recorder = Recorder(folder)
    threading.setprofile(recorder.note)
    sys.setprofile(recorder.note)


def _product_function(code: CodeType) -> Function | None:
    """Return the function that has this code; None for other code, and for modules and classes."""
    file = Path(os.path.realpath(code.co_filename))
    is_function = bool(code.co_flags & OPTIMIZED)
    if not is_function or not file.is_relative_to(ROOT):
        return None
    place = file.relative_to(ROOT)
    if place.parts[0] not in PRODUCT:
        return None
    return Function(str(place), code.co_qualname)


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
        self.folder = folder
        self._traces = folder / "traces"
        self._traces.mkdir()
        hook = folder / "hook"
        hook.mkdir()
        (hook / "sitecustomize.py").write_text(
            "from pathlib import Path\n"
            "from tools.trace_files import record\n"
            f"record(Path({str(self._traces)!r}))\n",
            encoding="utf-8",
        )
        path = [str(hook), str(ROOT), os.environ.get("PYTHONPATH", "")]
        self._environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path))}

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        """Start a command of `framegate`. Its log is shown if it fails."""
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "framegate", *words],
                cwd=self.folder,
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
        return (self.folder / "log").read_text(encoding="utf-8")

    def calls(self) -> list[Call]:
        """Return all calls so far, in the order of their times."""
        calls = []
        for file in self._traces.glob("*.calls"):
            pid = int(file.stem)
            module, *lines = file.with_suffix(".functions").read_text(encoding="utf-8").splitlines()
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
    """A result: its source, the UNIX time of its publication, if a network looked, its models."""

    source: str
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
            models = tuple(result.models)
            results.append(Published(result.source, result.published, is_looked, models))
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


def long_clip(folder: Path, name: str) -> str:
    """Return the demo clip, repeated, as a file of this name."""
    from framegate.cli.demo import shipped_clip
    from tests.support.footage import repeat

    file = folder / f"{name}.mp4"
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
    words = ("add", f"second={long_clip(folder, 'second')}", *SLOW)
    return _own(run, words, lambda result: result.source == "second")


def swap(folder: Path) -> set[Function]:
    """Return the functions that the swap of a model calls."""
    from tests.support.own_models import own_model

    run = TracedRun(folder)
    registry = folder / "registry"
    own_model(registry, "mine")
    words = ("models", "use", "mine", "--registry", str(registry))
    return _own(run, words, lambda result: result.models[0].startswith("mine"))


def _own(
    run: TracedRun, words: Sequence[str], is_first: Callable[[Published], bool]
) -> set[Function]:
    """Return the functions that run between a command and its first result, and not without it.

    is_first  whether a result is the first one that shows the effect of the command
    """
    with running(run, long_clip(run.folder, "street"), *SLOW):
        before = follow(run, lambda results: len(results) > WARM + TIMERS_S * FPS)
        began_s = run.command(*words, "-d", str(run.data))
        ended_s = follow(run, lambda results: is_first(results[-1]))[-1].at_s
        follow(run, lambda results: len(results) > STEADY)
    calls = run.calls()
    own = between(calls, began_s, ended_s)
    return own - between(calls, before[WARM].at_s, began_s) - between(calls, ended_s + REST_S, inf)


AUDITED: Final = '[escalate]\nplace = "local"\ndoubt = 1.0\n'
PROMISED: Final = '[promise]\nmeasure = "counts"\nframes = 20\naudited = 0.3\n'


def audit(folder: Path) -> set[Function]:
    """Return the functions that audits call, with the close of a period."""
    functions = []
    for name, text in (("without", AUDITED), ("with", AUDITED + PROMISED)):
        (folder / name).mkdir()
        run = TracedRun(folder / name)
        (folder / name / "pipeline.toml").write_text(text, encoding="utf-8")
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
