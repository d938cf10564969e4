"""How a configuration names the device of a network; `devices` knows which of them are there."""

from __future__ import annotations

import re
from typing import Any, Final

CPU: Final = "CPU"
AUTO: Final = "AUTO"
RULE: Final = (
    "CPU, AUTO, a device as OpenVINO names it (GPU, GPU.1, NPU, HETERO:GPU,CPU), or a provider of "
    "ONNX Runtime (CUDA, TENSORRT, ROCM)"
)
_DEVICE = r"[A-Z][A-Z0-9]{1,30}(\.[0-9]{1,3})?"
_NAME = re.compile(rf"(HETERO:{_DEVICE}(,{_DEVICE})*|{_DEVICE})")
_MAX_LENGTH = 80


def device_fault(name: Any) -> str | None:
    """Return the fault of a device's name, or None. The device may be absent on this machine."""
    is_valid = isinstance(name, str) and len(name) <= _MAX_LENGTH and _NAME.fullmatch(name)
    if not is_valid:
        return f"must be {RULE}"
    return None
