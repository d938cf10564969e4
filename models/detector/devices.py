"""What a network may be computed on beside the CPU: which devices there are, and what names them.

A device is named as OpenVINO names it (GPU, GPU.1, NPU, HETERO:GPU,CPU), or as a provider of ONNX
Runtime without its ending (CUDA, TENSORRT, ROCM), which computes models that were added from ONNX.
AUTO is ours: the fastest of all whose answers are the CPU's (precision_trial). OpenVINO's own AUTO
begins on the CPU and changes over while it runs, so that nobody could say what made a result.
"""

from __future__ import annotations

import re
from contextlib import suppress
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from framegate.models.detector.network import CPU, Precision, core, device_name
from framegate.models.errors import DeviceMissing

AUTO: Final = "AUTO"
RULE: Final = (
    "CPU, AUTO, a device as OpenVINO names it (GPU, GPU.1, NPU, HETERO:GPU,CPU), or a provider of "
    "ONNX Runtime (CUDA, TENSORRT, ROCM)"
)
_ONE = r"[A-Z][A-Z0-9]{1,30}(\.[0-9]{1,3})?"
_NAME = re.compile(rf"(HETERO:{_ONE}(,{_ONE})*|{_ONE})")
_LONGEST = 80
_ENDING = "ExecutionProvider"
_NO_DEVICES = ("CPU", "AZURE")  # providers: the one is OpenVINO's too, the other a service
_PACKAGES = {
    "CUDA": "onnxruntime-gpu",
    "TENSORRT": "onnxruntime-gpu",
    "OPENVINO": "onnxruntime-openvino",
}
_NVIDIA = Path("/proc/driver/nvidia/version")


def device_fault(name: Any) -> str | None:
    """Return what is wrong with the name of a device, None if nothing is; looks at no machine."""
    fits = isinstance(name, str) and len(name) <= _LONGEST and _NAME.fullmatch(name)
    return None if fits else f"allowed is {RULE}"


@cache
def openvino_devices() -> tuple[str, ...]:
    """OpenVINO's devices of this machine, the CPU first."""
    return (CPU, *(name for name in core().available_devices if name != CPU))


@cache
def onnx_devices() -> tuple[str, ...]:
    """ONNX Runtime's devices, as its installed package names them; none where it is not there."""
    if find_spec("onnxruntime") is None:
        return ()
    runtime: Any = import_module("onnxruntime")
    names = [name.removesuffix(_ENDING).upper() for name in runtime.get_available_providers()]
    return tuple(name for name in names if name not in _NO_DEVICES)


def devices_here() -> tuple[list[str], str]:
    """Return what there is beside the CPU, each with its own name and driver, and why there is no
    GPU of OpenVINO's if somebody says so.
    """
    found = (*openvino_devices()[1:], *onnx_devices())
    has_gpu = any(name.startswith("GPU") for name in found)
    return [described(name) for name in found], "" if has_gpu else _why_not("GPU", True)


def provider(device: str) -> str:
    """ONNX Runtime's own name of one of its devices."""
    runtime: Any = import_module("onnxruntime")
    names = {n.removesuffix(_ENDING).upper(): n for n in runtime.get_available_providers()}
    return str(names[device])


def to_try(asked: str, with_onnx: bool) -> tuple[str, ...]:
    """Devices beside the CPU that may be tried for what was asked: for AUTO all, for the CPU none,
    else this one.

    with_onnx  whether ONNX Runtime can compute the model

    Raises DeviceMissing, with what there is and why not more.
    """
    if asked == CPU:
        return ()
    ours, theirs = openvino_devices(), onnx_devices() if with_onnx else ()
    if asked == AUTO:
        return (*ours[1:], *theirs)
    parts = asked.removeprefix("HETERO:").split(",")
    if all(_is_among(part, ours) for part in parts) or asked in theirs:
        return (asked,)
    missing = next((part for part in parts if not _is_among(part, ours)), asked)
    raise DeviceMissing(asked, (*ours, *theirs), _why_not(missing, with_onnx))


def _is_among(name: str, devices: tuple[str, ...]) -> bool:
    """GPU is the first of GPU.0 and GPU.1; CPU.0 is the CPU."""
    return any(name in (one, one.partition(".")[0], f"{one}.0") for one in devices)


def _why_not(device: str, with_onnx: bool) -> str:
    """In a few words why a device is not there, as far as somebody says so; else nothing."""
    if device in (*onnx_devices(), *_PACKAGES) and not with_onnx:
        return "ONNX Runtime computes only models that were added from ONNX"
    if device in _PACKAGES:
        return f"it comes with the package {_PACKAGES[device]}"
    try:
        core().get_property(device, "FULL_DEVICE_NAME")
    except RuntimeError as fault:
        if found := re.search(r"lib[\w.-]+\.so[\w.]*(?=: cannot open)", str(fault)):
            return f"its driver is not installed: {found[0]} is missing"
    return ""


def described(device: str) -> str:
    """A device's own name and its driver's version, for a person and as part of keys."""
    if device in onnx_devices():
        with suppress(OSError, IndexError):
            return f"{device}, {_NVIDIA.read_text().splitlines()[0]}"
        return device
    return device_name(device)


def precisions_on(device: str) -> tuple[Precision, ...]:
    """The precisions to try on a device of OpenVINO's, the more exact first."""
    first = device.removeprefix("HETERO:").partition(",")[0]
    abilities = core().get_property(first, "OPTIMIZATION_CAPABILITIES")
    return ("f32", "f16") if "FP16" in abilities else ("f32",)
