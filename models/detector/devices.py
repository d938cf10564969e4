"""The devices that can compute a network: names, availability, precisions.

A device has the name of OpenVINO (GPU, GPU.1, NPU, HETERO:GPU,CPU), or of a provider of ONNX
Runtime without its suffix (CUDA, TENSORRT, ROCM), which computes models added from ONNX. AUTO is
our own: the fastest device whose results agree with the CPU (precision_trial). OpenVINO's AUTO
starts on the CPU and changes the device at run time, so a result could not name its device.
"""

from __future__ import annotations

import re
from contextlib import suppress
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from framegate.models.detector.device_names import AUTO, CPU
from framegate.models.detector.network import Precision, core, device_name
from framegate.models.errors import DeviceMissing

_SUFFIX = "ExecutionProvider"
_NO_DEVICES = ("CPU", "AZURE")  # providers: OpenVINO has the CPU as well, AZURE is a service
_PACKAGES = {
    "CUDA": "onnxruntime-gpu",
    "TENSORRT": "onnxruntime-gpu",
    "OPENVINO": "onnxruntime-openvino",
}
_NVIDIA = Path("/proc/driver/nvidia/version")


@cache
def openvino_devices() -> tuple[str, ...]:
    """Return OpenVINO's devices on this machine, the CPU first."""
    return (CPU, *(name for name in core().available_devices if name != CPU))


@cache
def onnx_devices() -> tuple[str, ...]:
    """Return the devices of the installed ONNX Runtime; () without ONNX Runtime."""
    if find_spec("onnxruntime") is None:
        return ()
    runtime: Any = import_module("onnxruntime")
    names = [name.removesuffix(_SUFFIX).upper() for name in runtime.get_available_providers()]
    return tuple(name for name in names if name not in _NO_DEVICES)


def devices_here() -> tuple[list[str], str]:
    """Return the devices other than the CPU, each with full name and driver, and the reason why
    there is no GPU of OpenVINO, "" if there is one or the reason is unknown.
    """
    devices = (*openvino_devices()[1:], *onnx_devices())
    descriptions = [described(name) for name in devices]
    has_gpu = any(name.startswith("GPU") for name in devices)
    if has_gpu:
        return descriptions, ""
    return descriptions, _reason_missing("GPU", True)


def provider(device: str) -> str:
    """Return the name of a device's provider in ONNX Runtime."""
    runtime: Any = import_module("onnxruntime")
    names = {name.removesuffix(_SUFFIX).upper(): name for name in runtime.get_available_providers()}
    return str(names[device])


def to_try(configured: str, with_onnx: bool) -> tuple[str, ...]:
    """Return the devices other than the CPU to try for a configured device; all for AUTO.

    with_onnx  ONNX Runtime can compute the model

    Raises DeviceMissing with the available devices and, if known, the reason.
    """
    if configured == CPU:
        return ()
    ours = openvino_devices()
    theirs: tuple[str, ...] = ()
    if with_onnx:
        theirs = onnx_devices()
    if configured == AUTO:
        return (*ours[1:], *theirs)
    parts = configured.removeprefix("HETERO:").split(",")
    missing = [part for part in parts if not _is_among(part, ours)]
    if not missing or configured in theirs:
        return (configured,)
    raise DeviceMissing(configured, (*ours, *theirs), _reason_missing(missing[0], with_onnx))


def _is_among(name: str, devices: tuple[str, ...]) -> bool:
    """Return True if a device has this name. GPU means GPU.0, and CPU.0 means CPU."""
    return any(name in (device, device.partition(".")[0], f"{device}.0") for device in devices)


def _reason_missing(device: str, with_onnx: bool) -> str:
    """Return the reason why a device is missing, or "" if it is unknown."""
    if device in (*onnx_devices(), *_PACKAGES) and not with_onnx:
        return "ONNX Runtime computes only models that were added from ONNX"
    if device in _PACKAGES:
        return f"it comes with the package {_PACKAGES[device]}"
    try:
        core().get_property(device, "FULL_DEVICE_NAME")
    except RuntimeError as fault:
        library = re.search(r"lib[\w.-]+\.so[\w.]*(?=: cannot open)", str(fault))
        if library is not None:
            return f"its driver is not installed: {library[0]} is missing"
    return ""


def described(device: str) -> str:
    """Return a device's full name and driver version, for messages and for keys."""
    if device in onnx_devices():
        with suppress(OSError, IndexError):
            return f"{device}, {_NVIDIA.read_text(encoding='utf-8').splitlines()[0]}"
        return device
    return device_name(device)


def precisions_on(device: str) -> tuple[Precision, ...]:
    """Return the precisions to try on an OpenVINO device, most exact first."""
    first = device.removeprefix("HETERO:").partition(",")[0]
    abilities = core().get_property(first, "OPTIMIZATION_CAPABILITIES")
    if "FP16" in abilities:
        return ("f32", "f16")
    return ("f32",)
