"""Work on files that nobody has looked at yet, in a process of its own with limits.

A file that crashes its reader, fills memory or never ends costs that process; here it is a refusal
with its reason. The process has a folder of its own, an environment of its own (no secrets of
ours), and gives its answer as JSON. It is a fence against broken and hostile files, not a jail: it
runs as the same user.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from framegate.models.errors import ModelRefused

REQUEST, ANSWER, PRINTED = "request.json", "answer.json", "printed.txt"
_ROOT = Path(__file__).resolve().parents[2]
_MOST_ANSWER_BYTES = 4 << 20
_NO_MEMORY = ("MemoryError", "bad_alloc", "an't allocate memory", "annot allocate memory", "OOM")
_SIGNALS = {
    signal.SIGXCPU: "more than {cpu_s} s of CPU time",
    signal.SIGKILL: "more memory than there is",
    signal.SIGXFSZ: "files of more than {file_bytes} bytes",
}


@dataclass(frozen=True, slots=True)
class SandboxLimits:
    """What the process may use: address space and file size in bytes, CPU and wall-clock in s."""

    memory_bytes: int = 12 << 30
    file_bytes: int = 4 << 30
    cpu_s: int = 600
    wall_s: float = 600.0


def ask(
    task: str, arguments: Mapping[str, Any], folder: Path, file: Path, limits: SandboxLimits
) -> dict[str, Any]:
    """Give the answer to `task` (of `sandbox_main`), worked out in `folder`.

    arguments  of the task, as JSON takes them
    file       whom a refusal is about

    Raises ModelRefused: what the file lacks, or which limit it met.
    """
    request = {"task": task, "arguments": dict(arguments), "limits": asdict(limits)}
    (folder / REQUEST).write_text(json.dumps(request))
    (folder / ANSWER).unlink(missing_ok=True)
    code = _run(folder, file, limits)
    printed = (folder / PRINTED).read_bytes()[-4000:].decode(errors="replace")
    answer = _answer(folder)
    if answer is None:
        raise ModelRefused(file, why_ended(code, printed, limits))
    if "refused" in answer:
        raise ModelRefused(file, str(answer["refused"]))
    done: dict[str, Any] = answer["done"]
    return done


def _run(folder: Path, file: Path, limits: SandboxLimits) -> int:
    # -P, -s: no module comes from the folder that it works in.
    command = [sys.executable, "-P", "-s", "-m", "framegate.models.conversion.sandbox_main"]
    with (folder / PRINTED).open("wb") as printed:
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
        "PYTHONPATH": str(_ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
        "HOME": str(folder),
        "TMPDIR": str(folder),
        # Whatever asks torch for it, it unpickles no object but tensors.
        "TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1",
        "OMP_NUM_THREADS": "2",
    }


def _answer(folder: Path) -> dict[str, Any] | None:
    try:
        with (folder / ANSWER).open("rb") as file:
            answer = json.loads(file.read(_MOST_ANSWER_BYTES))
    except (OSError, ValueError):
        return None
    return answer if isinstance(answer, dict) and answer.keys() & {"refused", "done"} else None


def why_ended(code: int, printed: str, limits: SandboxLimits) -> str:
    """Say what ended a process that gave no answer."""
    if any(word in printed for word in _NO_MEMORY):
        return no_memory(limits.memory_bytes)
    if code < 0:
        over = _SIGNALS.get(signal.Signals(-code))
        if over is not None:
            return "reading it needs " + over.format(**asdict(limits))
        return f"it crashes its reader ({signal.Signals(-code).name})"
    last = printed.strip().splitlines()[-1:] or ["no word"]
    return f"its reader ended with code {code}: {last[0][:300]}"


def no_memory(limit: int) -> str:
    """Give the reason for a file whose reading needs more than `limit` bytes."""
    return f"reading it needs more than {limit >> 20} MiB of memory"
