"""ONNX Runtime as the runtime of a model, on the ONNX file from which the model was converted.

Needs onnxruntime (the `onnx` extra); a device other than the CPU needs the package for that device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from importlib import import_module
from importlib.util import find_spec
from typing import Any, TypeVar

import numpy as np

from framegate.models.boxes import FloatArray, read_only
from framegate.models.detector.device_names import CPU
from framegate.models.detector.devices import described, provider
from framegate.models.detector.network import Precision, computed, cpu_model
from framegate.models.errors import (
    DeviceRefused,
    ModelUnreadable,
    TooManyInFlight,
    WarmUpFailed,
)
from framegate.models.formats.table import FORMATS
from framegate.models.picture import ByteArray
from framegate.models.registry.manifest import InputSpec
from framegate.models.registry.model_folder import ModelFolder

T = TypeVar("T")
ORIGINAL = "original.onnx"
_ON_CPU = "CPUExecutionProvider"


def can_run(folder: ModelFolder) -> bool:
    """Return whether ONNX Runtime is installed and the model has its ONNX file."""
    return ORIGINAL in folder.manifest.files and find_spec("onnxruntime") is not None


class OnnxNetwork:
    """A network with a fixed input size; implements `detector.member.Runtime`.

    Only one thread may use it at a time. The computation runs in threads of ONNX Runtime.

    Raises ModelUnreadable if ONNX Runtime refuses the file, DeviceRefused if the device fails.
    """

    def __init__(
        self,
        folder: ModelFolder,
        precision: Precision,
        threads: int,
        max_in_flight: int = 4,
        device: str = CPU,
    ) -> None:
        folder.verified()
        manifest = folder.manifest
        runtime: Any = import_module("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Threads that spin while they wait take the cores from everything else.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        providers = [_ON_CPU]
        device_facts = []
        if device != CPU:
            providers = [provider(device), _ON_CPU]
            device_facts = [described(device)]
        path = folder.path / ORIGINAL
        try:
            self._session = runtime.InferenceSession(str(path), options, providers=providers)
        except Exception as fault:  # the exception classes of ONNX Runtime have no common base
            allowed = "a file that ONNX Runtime reads"
            raise ModelUnreadable(path, allowed, str(fault)[:200]) from fault
        # Without the first provider, ONNX Runtime continues with the next and reports no error.
        if self._session.get_providers()[0] != providers[0]:
            raise DeviceRefused(device, "ONNX Runtime cannot use it; see its log on stderr")
        [port] = self._session.get_inputs()
        if port.type != "tensor(float)":
            raise ModelUnreadable(path, "a float32 input", port.type)
        self.precision = precision
        self.computed = computed(precision, device)
        self.sha256 = manifest.sha256
        self.size: tuple[int, int] | None = (manifest.input.width, manifest.input.height)
        self.facts = (
            manifest.sha256, precision, str(threads), runtime.__version__, cpu_model(), *providers,
            *device_facts,
        )  # fmt: skip
        self._shape = (manifest.input.height, manifest.input.width, 3)
        self._input = port.name
        self._is_nchw = port.shape[1] == 3
        self._outputs = manifest.outputs
        self._ranks = FORMATS[manifest.format].ranks
        self._spec = manifest.input
        self._thread = ThreadPoolExecutor(1, "onnx")
        self._running: dict[int, Future[list[Any]]] = {}
        self._max_in_flight = max_in_flight
        self._next_token = 0

    def submit(self, bgr: ByteArray, fixed: bool = False) -> int:  # noqa: ARG002
        """Start an inference on `bgr`, uint8 (h, w, 3), and return a token for `read`.

        Raises ArrayMismatch, TooManyInFlight.
        """
        checked = read_only("bgr", bgr, np.uint8, self._shape)
        if len(self._running) >= self._max_in_flight:
            raise TooManyInFlight(self._max_in_flight)
        token = self._next_token
        self._next_token += 1
        self._running[token] = self._thread.submit(self._compute, checked)
        return token

    def wait(self, token: int) -> None:
        """Wait until the inference ends."""
        self._running[token].exception()

    def read(self, token: int, reader: Callable[[Sequence[FloatArray]], T]) -> T:
        """Wait, then call `reader` with the outputs, each float32 without its batch axis."""
        outputs = []
        for output, rank in zip(self._running.pop(token).result(), self._ranks, strict=True):
            if output.ndim > rank:
                output = output[0]
            outputs.append(np.asarray(output, np.float32))
        return reader(outputs)

    def warm_up(self, sizes: Sequence[tuple[int, int]], fixed: bool = False) -> None:  # noqa: ARG002
        """Run once per size. Raises WarmUpFailed if that fails or the outputs are not finite."""
        for width, height in sizes:
            shape = (height, width, 3)
            try:
                token = self.submit(np.zeros(shape, np.uint8))
                is_finite = self.read(token, _are_finite)
            except Exception as fault:  # the exception classes of ONNX Runtime have no common base
                raise WarmUpFailed(ORIGINAL, shape, str(fault)[:200]) from fault
            if not is_finite:
                raise WarmUpFailed(ORIGINAL, shape, "outputs are not finite")

    def expect(self, sizes: Sequence[tuple[int, int]]) -> None:
        """Do nothing: the network has a fixed size."""

    def close(self) -> None:
        """Do nothing: no networks are compiled in the background."""

    def _compute(self, bgr: ByteArray) -> list[Any]:
        tensor = as_input(bgr, self._spec)
        if self._is_nchw:
            tensor = tensor.transpose(2, 0, 1)
        feed = {self._input: np.ascontiguousarray(tensor)[None]}
        outputs: list[Any] = self._session.run(list(self._outputs), feed)
        return outputs


def _are_finite(outputs: Sequence[FloatArray]) -> bool:
    return all(np.isfinite(output).all() for output in outputs)


def as_input(bgr: ByteArray, spec: InputSpec) -> FloatArray:
    """Convert uint8 (h, w, 3) in the order B, G, R into the float32 input of the ONNX file."""
    levels = bgr
    if spec.colour == "rgb":
        levels = bgr[..., ::-1]
    mean = np.array(spec.mean, np.float32)
    std = np.array(spec.std, np.float32)
    tensor: FloatArray = (levels * np.float32(spec.scale) - mean) / std
    return tensor
