"""Does the base install have a wheel for each platform that we state? `make platforms`.

Resolves the locked versions for each platform without downloading a package: uv reads metadata.
"""

from __future__ import annotations

import subprocess
import sys
from itertools import product
from pathlib import Path

ROOT = Path(__file__).parents[1]
PLATFORMS = ("x86_64-manylinux_2_28", "aarch64-manylinux_2_35")  # numbers: the least glibc
PYTHONS = ("3.11", "3.12", "3.13")


def resolve(platform: str, python: str) -> subprocess.CompletedProcess[str]:
    """uv's answer: all packages of the base install with their locked versions, wheels only."""
    command = [Path(sys.executable).with_name("uv"), "pip", "compile", "--quiet", "--no-header"]
    command += ["--no-annotate", "--only-binary", ":all:", "--constraint", "locks/dev.txt"]
    command += ["--python-platform", platform, "--python-version", python]
    command += ["--no-emit-package", "openvino-telemetry", "pyproject.toml"]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, encoding="utf-8"
    )


def main() -> int:
    """Print a line a platform; 1 if one lacks a wheel."""
    locked = (ROOT / "locks" / "dev.txt").read_text(encoding="utf-8")
    missing = False
    for platform, python in product(PLATFORMS, PYTHONS):
        answer = resolve(platform, python)
        pinned = [line.split(" ;")[0] for line in answer.stdout.splitlines() if "==" in line]
        strange = [line for line in pinned if f"{line} " not in f"{locked}\n"]
        fault = answer.stderr.strip() or (f"not as locked: {', '.join(strange)}" if strange else "")
        said = f"FAULT: {fault}" if fault else f"{len(pinned)} packages, a wheel for each"
        print(f"{platform:<24} Python {python:<5} {said}", flush=True)
        missing |= bool(fault)
    return int(missing)


if __name__ == "__main__":
    sys.exit(main())
