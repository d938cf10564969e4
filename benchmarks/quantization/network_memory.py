"""Measure the memory that one compiled network adds to a process.

    python -m benchmarks.quantization.network_memory NETWORK.xml WIDTH HEIGHT PRECISION [OUTPUT...]

Loads nothing but OpenVINO and that network, runs it, and prints JSON: MiB resident before
the network was read and after it has run.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_TIMEOUT_S = 60


def in_a_process_of_its_own(
    path: Path, size: tuple[int, int], precision: str, outputs: Sequence[str]
) -> dict[str, float]:
    """MiB `before` and `after`, and the difference, `mib`. Raises CalledProcessError."""
    here = [sys.executable, "-m", "benchmarks.quantization.network_memory"]
    facts = [str(path), *(str(side) for side in size), precision, *outputs]
    ran = subprocess.run([*here, *facts], capture_output=True, check=True, timeout=_TIMEOUT_S)
    said: dict[str, float] = json.loads(ran.stdout.splitlines()[-1])
    return said | {"mib": round(said["after"] - said["before"], 1)}


def main(path: str, width: str, height: str, precision: Any, *outputs: str) -> None:
    import numpy as np
    import openvino as ov

    from framegate.models.detector.network import config, core

    core().get_property("CPU", "FULL_DEVICE_NAME")  # the plugin is there without any network, too
    before = _resident_mib()
    model = core().read_model(path)
    model = ov.Model([model.output(name) for name in outputs], model.get_parameters())
    size = int(height), int(width)
    model.reshape([1, *size, 3])
    compiled = core().compile_model(model, "CPU", config(precision, 1))
    del model
    request = compiled.create_infer_request()
    for _ in range(3):
        request.infer([np.full((1, *size, 3), 114, np.uint8)])
    print(json.dumps({"before": before, "after": _resident_mib()}))


def _resident_mib() -> float:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    kib = next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))
    return round(kib / 1024, 1)


if __name__ == "__main__":
    main(*sys.argv[1:])
