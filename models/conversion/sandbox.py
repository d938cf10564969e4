"""A process with limits for work on foreign model files.

A file that crashes its reader, fills the memory or never ends costs only that process; the caller
gets a refusal with the reason. The process has its own folder and environment (without secrets),
reads its task from `request.json`, and writes `answer.json`. It protects against broken and hostile
files, but it is no jail: it runs as the same user.

`ask` runs in the caller, `main` in the process. `file_kind` and `sandbox_tasks` contain the tasks.
"""

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from framegate.models.errors import ModelError, ModelRefused
from framegate.models.registry.manifest import printable

_REQUEST: Final = "request.json"
_ANSWER: Final = "answer.json"
_PRINTED: Final = "printed.txt"
_MAX_ANSWER_BYTES: Final = 4 << 20
_NO_MEMORY: Final = (
    "MemoryError", "bad_alloc", "an't allocate memory", "annot allocate memory", "OOM",
)  # fmt: skip
_SIGNALS: Final = {
    signal.SIGXCPU: "more than {cpu_s} s of CPU time",
    signal.SIGKILL: "more memory than this machine has",
    signal.SIGXFSZ: "files of more than {file_bytes} bytes",
}


@dataclass(frozen=True, slots=True)
class SandboxLimits:
    """Limits of the process: address space and file size in bytes, CPU and wall-clock time in s."""

    memory_bytes: int = 12 << 30
    file_bytes: int = 4 << 30
    cpu_s: int = 600
    wall_s: float = 600.0


def ask(
    task: str, arguments: Mapping[str, Any], folder: Path, file: Path, limits: SandboxLimits
) -> dict[str, Any]:
    """Run a task of TASKS in a process that works in `folder`, and return its answer.

    arguments  of the task, as JSON
    file       the user's file, which a refusal names

    Raises ModelRefused with the fault of the file, or with the limit that the process exceeded.
    """
    request = {"task": task, "arguments": dict(arguments), "limits": asdict(limits)}
    (folder / _REQUEST).write_text(json.dumps(request), encoding="utf-8")
    (folder / _ANSWER).unlink(missing_ok=True)
    code = _run_process(folder, file, limits)
    printed = (folder / _PRINTED).read_bytes()[-4000:].decode(errors="replace")
    answer = _answer(folder)
    if answer is None:
        raise ModelRefused(file, printable(why_ended(code, printed, limits)))
    if "refused" in answer:
        raise ModelRefused(file, printable(str(answer["refused"])))
    result: dict[str, Any] = answer["done"]
    return result


def _run_process(folder: Path, file: Path, limits: SandboxLimits) -> int:
    # -P and -s: the process imports no module from the folder in which it works.
    command = [sys.executable, "-P", "-s", "-m", "framegate.models.conversion.sandbox"]
    with (folder / _PRINTED).open("wb") as printed:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=_environment(folder),
            stdin=subprocess.DEVNULL,
            stdout=printed,
            stderr=printed,
            start_new_session=True,
        )
        try:
            return process.wait(limits.wall_s)
        except subprocess.TimeoutExpired as late:
            why = f"reading it took more than {limits.wall_s:g} s"
            raise ModelRefused(file, why) from late
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _environment(folder: Path) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL") if name in os.environ}
    return kept | {
        "PYTHONPATH": str(_folder_of_framegate()),
        "PYTHONDONTWRITEBYTECODE": "1",
        "HOME": str(folder),
        "TMPDIR": str(folder),
        # torch then unpickles no objects other than tensors, whichever library calls it.
        "TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1",
        "OMP_NUM_THREADS": "2",
    }


def _folder_of_framegate() -> Path:
    """Return the folder from which `framegate` is imported: a checkout, or any site-packages.

    The process leaves out the packages of the user (-s), where Framegate may be installed.
    """
    spec = find_spec("framegate")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).resolve().parents[1]


def _answer(folder: Path) -> dict[str, Any] | None:
    try:
        with (folder / _ANSWER).open("rb") as file:
            answer = json.loads(file.read(_MAX_ANSWER_BYTES))
    except (OSError, ValueError):
        return None
    if not isinstance(answer, dict) or not answer.keys() & {"refused", "done"}:
        return None
    return answer


def why_ended(code: int, printed: str, limits: SandboxLimits) -> str:
    """Return the reason why a process ended without an answer."""
    if any(word in printed for word in _NO_MEMORY):
        return _no_memory(limits.memory_bytes)
    if code < 0:
        excess = _SIGNALS.get(signal.Signals(-code))
        if excess is not None:
            return "reading it needs " + excess.format(**asdict(limits))
        return f"the program that reads it crashed ({signal.Signals(-code).name})"
    last_line = (printed.strip().splitlines() or ["no message"])[-1]
    return f"the program that reads it ended with code {code}: {last_line[:300]}"


def _no_memory(limit: int) -> str:
    return f"reading it needs more than {limit >> 20} MiB of memory"


# -- The tasks. Each imports its module when it runs: the kind of a file needs no OpenVINO.


def _kind(file: str) -> dict[str, Any]:
    from framegate.models.conversion.file_kind import kind_of

    return kind_of(Path(file))


def _read(file: str, kind: str, size: Sequence[int] | None) -> dict[str, Any]:
    from framegate.models.conversion.sandbox_tasks import read

    return read(Path(file), kind, size)


def _build(**arguments: Any) -> dict[str, Any]:
    from framegate.models.conversion.sandbox_tasks import build

    return build(**arguments)


def _run(**arguments: Any) -> dict[str, Any]:
    from framegate.models.conversion.sandbox_tasks import run

    return run(**arguments)


TASKS: Final[dict[str, Callable[..., dict[str, Any]]]] = {
    "kind": _kind,
    "read": _read,
    "build": _build,
    "run": _run,
}


def main() -> None:
    """Run the requested task under its limits, and write the answer or the refusal."""
    request = json.loads(Path(_REQUEST).read_text(encoding="utf-8"))
    limits = SandboxLimits(**request["limits"])
    _limit_process(limits)
    answer: dict[str, Any]
    try:
        answer = {"done": TASKS[request["task"]](**request["arguments"])}
    except ModelRefused as refusal:
        answer = {"refused": refusal.reason}
    except ModelError as fault:
        answer = {"refused": str(fault)}
    except MemoryError:
        answer = {"refused": _no_memory(limits.memory_bytes)}
    except Exception as fault:
        answer = {"refused": _short_message(fault, limits.memory_bytes)}
    Path(_ANSWER).write_text(json.dumps(answer), encoding="utf-8")


def _limit_process(limits: SandboxLimits) -> None:
    for kind, limit in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, limits.file_bytes),
        (resource.RLIMIT_CPU, limits.cpu_s),
        (resource.RLIMIT_AS, limits.memory_bytes),
    ):
        _, hard = resource.getrlimit(kind)
        soft = limit
        if hard != resource.RLIM_INFINITY:
            soft = min(limit, hard)
        resource.setrlimit(kind, (soft, hard))
    with suppress(OSError):  # if memory runs out, the kernel ends this process first
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="utf-8")


def _short_message(fault: Exception, memory_bytes: int) -> str:
    """Return the message of an error without the source lines and stack traces of a library."""
    text = str(fault) or repr(fault)
    if ("alloc" in text and "memory" in text) or "bad_alloc" in text:
        return _no_memory(memory_bytes)
    noise = ("Exception from", "Check '", "FrontEnd API failed", "Summary:", "Stack", "While")
    lines = [line.strip() for line in text.splitlines()]
    kept = " ".join(line for line in lines if line and not line.startswith(noise))
    if not kept:
        return repr(fault)[:500]
    return f"{type(fault).__name__}: {kept[:500]}"


if __name__ == "__main__":
    main()
