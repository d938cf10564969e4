"""The other end of `apart`: one task on one file, under limits.

It takes `request.json` of its folder and leaves `answer.json` there.
"""

import json
import resource
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from framegate.models.conversion.sandbox import ANSWER, REQUEST, no_memory
from framegate.models.errors import ModelError, ModelRefused


def look(said: dict[str, Any]) -> dict[str, Any]:
    """What kind of file it is."""
    from framegate.models.conversion.scan import kind_of

    return kind_of(Path(said["file"]))


def read(said: dict[str, Any]) -> dict[str, Any]:
    """Its network as OpenVINO reads it."""
    from framegate.models.conversion.networks import read

    return read(Path(said["file"]), said["kind"], said["size"])


def build(said: dict[str, Any]) -> dict[str, Any]:
    """That network with its pre-processing inside."""
    from framegate.models.conversion.networks import build

    return build(**said)


def run(said: dict[str, Any]) -> dict[str, Any]:
    """What it says about pictures."""
    from framegate.models.conversion.trial import run

    return run(**said)


TASKS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    task.__name__: task for task in (look, read, build, run)
}


def main() -> None:
    """Do it; a fault of the file is an answer, too."""
    request = json.loads(Path(REQUEST).read_text())
    limits = request["limits"]
    limit(limits)
    answer: dict[str, Any]
    try:
        answer = {"done": TASKS[request["task"]](request["said"])}
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
    """In a few lines, without a library's source lines and stack traces."""
    text = str(fault) or repr(fault)
    if ("alloc" in text and "memory" in text) or "bad_alloc" in text:
        return no_memory(memory_bytes)
    noise = ("Exception from", "Check '", "FrontEnd API failed", "Summary:", "Stack", "While")
    lines = [line.strip() for line in text.splitlines()]
    kept = [line for line in lines if line and not line.startswith(noise)]
    return f"{type(fault).__name__}: {' '.join(kept)[:500]}" if kept else repr(fault)[:500]


if __name__ == "__main__":
    main()
