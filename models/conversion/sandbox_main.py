"""The process that `sandbox.ask` starts: one task on one file, under limits.

It takes `request.json` of its folder and leaves `answer.json` there.
"""

import json
import resource
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from framegate.models.conversion.sandbox import ANSWER, REQUEST, no_memory
from framegate.models.errors import ModelError, ModelRefused

# Each imports what it needs itself: what kind of file it is needs no OpenVINO, say.


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


TASKS: dict[str, Callable[..., dict[str, Any]]] = {
    "kind": _kind,
    "read": _read,
    "build": _build,
    "run": _run,
}


def main() -> None:
    """Do the task; a fault of the file is an answer, too."""
    request = json.loads(Path(REQUEST).read_text())
    limits = request["limits"]
    limit(limits)
    answer: dict[str, Any]
    try:
        answer = {"done": TASKS[request["task"]](**request["arguments"])}
    except ModelRefused as refusal:
        answer = {"refused": refusal.reason}
    except ModelError as fault:
        answer = {"refused": str(fault)}
    except MemoryError:
        answer = {"refused": no_memory(limits["memory_bytes"])}
    except Exception as fault:
        answer = {"refused": reason(fault, limits["memory_bytes"])}
    Path(ANSWER).write_text(json.dumps(answer))


def limit(limits: dict[str, Any]) -> None:
    """Bound this process, before anything of the file is read."""
    for what, most in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, limits["file_bytes"]),
        (resource.RLIMIT_CPU, limits["cpu_s"]),
        (resource.RLIMIT_AS, limits["memory_bytes"]),
    ):
        _, hard = resource.getrlimit(what)
        resource.setrlimit(what, (most if hard < 0 else min(most, hard), hard))
    with suppress(OSError):  # where memory runs out, this process goes and no other
        Path("/proc/self/oom_score_adj").write_text("1000")


def reason(fault: Exception, memory_bytes: int) -> str:
    """Return its message in a few lines, without a library's source lines and stack traces."""
    text = str(fault) or repr(fault)
    if ("alloc" in text and "memory" in text) or "bad_alloc" in text:
        return no_memory(memory_bytes)
    noise = ("Exception from", "Check '", "FrontEnd API failed", "Summary:", "Stack", "While")
    lines = [line.strip() for line in text.splitlines()]
    kept = [line for line in lines if line and not line.startswith(noise)]
    return f"{type(fault).__name__}: {' '.join(kept)[:500]}" if kept else repr(fault)[:500]


if __name__ == "__main__":
    main()
