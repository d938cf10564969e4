"""Networks on OpenVINO, and the committed weight files."""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

import numpy as np

from framegate.models.boxes import FloatArray, read_only
from framegate.models.detector.compiled_networks import compiled_folder, locked
from framegate.models.detector.device_names import CPU
from framegate.models.errors import (
    ArrayMismatch,
    ModelUnreadable,
    PrecisionUnsupported,
    TooManyInFlight,
    WarmUpFailed,
)
from framegate.models.picture import STEP, ByteArray
from framegate.models.weights import FOLDER

if TYPE_CHECKING:
    import openvino as ov

# -- The committed weight files, verified by their sha256.


WEIGHTS = FOLDER


@dataclass(frozen=True, slots=True)
class WeightFile:
    """An entry of `weights/manifest.toml`."""

    file: str
    sha256: str
    bytes: int
    origin: str
    licence: str
    script: str


def read(folder: Path = WEIGHTS) -> dict[str, WeightFile]:
    """Return the listed files by name. Raises ModelUnreadable if the list is unreadable."""
    path = folder / "manifest.toml"
    try:
        rows = tomllib.loads(path.read_text(encoding="utf-8"))["files"]
        listed = [WeightFile(**row) for row in rows]
    except (OSError, tomllib.TOMLDecodeError, KeyError, TypeError) as fault:
        raise ModelUnreadable(path, "a list of weight files", repr(fault)) from fault
    return {entry.file: entry for entry in listed}


def verified(name: str, folder: Path = WEIGHTS) -> tuple[Path, str]:
    """Verify both files of the OpenVINO model `name`; return the path of the .xml and a sha256.

    The sha256 is that of both files' sums, so it identifies topology and weights. Raises
    ModelUnreadable.
    """
    listed = read(folder)
    sums = [_checked(folder / f"{name}.{kind}", listed) for kind in ("xml", "bin")]
    return folder / f"{name}.xml", hashlib.sha256("".join(sums).encode()).hexdigest()


def _checked(path: Path, listed: dict[str, WeightFile]) -> str:
    if path.name not in listed:
        raise ModelUnreadable(path, "a line in manifest.toml", "none")
    expected = listed[path.name].sha256
    try:
        actual = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as fault:
        raise ModelUnreadable(path, f"sha256 {expected}", fault.strerror or repr(fault)) from fault
    if actual != expected:
        raise ModelUnreadable(path, f"sha256 {expected}", actual)
    return actual


# +onnx: computed by ONNX Runtime from the original ONNX file
Precision = Literal["f32", "f16", "bf16", "int8", "int8+bf16", "f32+onnx", "int8+onnx"]
T = TypeVar("T")

# The files of each network, without suffix: with float weights, and with weights in 8 bits.
# The surveillance networks have only the INT8 file of their publisher: it takes two thirds of the
# time of its float file, and its mAP on 64 photographs is lower by 0.008 (small) and 0.006 (large).
_FILES: Final = {
    "nanodet-plus": ("nanodet-plus", "nanodet-plus-int8"),
    "surveillance": ("surveillance-int8", "surveillance-int8"),
    "surveillance-large": ("surveillance-large-int8", "surveillance-large-int8"),
}


@cache
def core() -> ov.Core:
    """Return OpenVINO's entry point, one for each process."""
    # The import is slow, and most processes that read options of detect run no network.
    import openvino as ov

    return ov.Core()


@cache
def supported() -> tuple[Precision, ...]:
    """Return the precisions that this CPU computes natively, f32 first.

    OpenVINO does not refuse bf16 on a CPU without it, but silently computes in f32.
    """
    abilities = core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if "BF16" in abilities:
        return ("f32", "bf16", "int8", "int8+bf16")
    return ("f32", "int8")


def cpu_model() -> str:
    """Return the CPU's name as OpenVINO reports it."""
    return str(core().get_property("CPU", "FULL_DEVICE_NAME"))


def compiled_here(cache: Path) -> Path | None:
    """Return the folder in a user's cache for networks that are compiled on this machine."""
    return compiled_folder(cache, "|".join((cpu_model(), *supported())))


def device_name(device: str) -> str:
    """Return the full name and driver version of an OpenVINO device, or of each in HETERO."""
    names = []
    for part in device.removeprefix("HETERO:").split(","):
        words = [part]
        for key in ("FULL_DEVICE_NAME", "GPU_DRIVER_VERSION", "NPU_DRIVER_VERSION"):
            with suppress(RuntimeError):  # the device does not have the key
                words.append(str(core().get_property(part, key)))
        names.append(" ".join(words))
    return " and ".join(names)


def computed(precision: Precision, device: str) -> str:
    """Return the precision, and the device unless it is the CPU, for names in results."""
    if device == CPU:
        return precision
    return f"{precision}+{re.sub('[:,]', '_', device.lower())}"


def nearest(precision: str) -> Precision:
    """Return `precision` if this CPU has it, else the same without bf16.

    Raises PrecisionUnsupported.
    """
    for candidate in (precision, precision.removesuffix("+bf16").replace("bf16", "f32")):
        for available in supported():
            if candidate == available:
                return available
    raise PrecisionUnsupported(precision, supported())


@dataclass(frozen=True, slots=True)
class NetworkFile:
    """A verified OpenVINO model on disk.

    path    path of the .xml; the model's input is uint8 (1, H, W, 3) in the order B, G, R
    sha256  sha256 of both its files
    """

    path: Path
    sha256: str


def shipped(name: str, precision: Precision) -> NetworkFile:
    """Return the committed file of a shipped network for a precision.

    A network with a single file has it for all precisions. Raises ModelUnreadable.
    """
    in_float, in_8_bits = _FILES[name]
    if precision.startswith("int8"):
        return NetworkFile(*verified(in_8_bits))
    return NetworkFile(*verified(in_float))


def precisions_of(*names: str) -> tuple[Precision, ...]:
    """Return the precisions in which all of these shipped networks can be served on this CPU.

    They are those of `supported` that are as exact as the weights in the networks' files.
    """
    return tuple(
        precision for precision in supported() if all(_is_exact(name, precision) for name in names)
    )


def _is_exact(name: str, precision: Precision) -> bool:
    in_float, in_8_bits = _FILES[name]
    file = in_float
    if precision.startswith("int8"):
        file = in_8_bits
    return file.endswith("-int8") is precision.startswith("int8")


class Network:
    """A compiled network from uint8 (h, w, 3) arrays to float32 arrays.

    The batch size is always 1, so that outputs do not depend on other inputs. `submit` returns at
    once; up to `max_in_flight` results may be outstanding. The same input, precision, threads and
    CPU give the same bits; for other devices this is not guaranteed.

    A network that takes any size is compiled once for each `fixed` size, and once for all other
    sizes: with changing sizes, a network is slower, by a quarter for small inputs. The two kinds
    differ in the last bits, so the caller chooses the kind, and the result never depends on the
    sizes of other pictures. The last `most_fixed` sizes are kept, about 15 MB each. A dropped size
    is compiled again on the next use, in about 0.2 s.

    outputs   names of the outputs, in the order of `read`
    cache_dir folder of `compiled_here`; None: compile always
    device    see devices.RULE; its precisions are not checked here
    computed  precision, and the device unless it is the CPU, as in names in results
    facts     all that decides the bits of the outputs, except the input
    size      (width, height) of the only input size; None: all multiples of 32

    Thread rule: one thread at a time. The computation runs in OpenVINO's threads.

    Raises PrecisionUnsupported, ModelUnreadable.
    """

    def __init__(
        self,
        file: NetworkFile,
        outputs: Sequence[str],
        precision: Precision,
        threads: int,
        cache_dir: Path | None = None,
        max_in_flight: int = 4,
        most_fixed: int = 24,
        device: str = CPU,
    ) -> None:
        if device == CPU and precision not in supported():
            raise PrecisionUnsupported(precision, supported())
        import openvino as ov

        self.precision = precision
        self.sha256 = file.sha256
        self.name = file.path.stem
        self.computed = computed(precision, device)
        self._device = device
        facts = [self.sha256, *outputs, precision, str(threads), ov.get_version(), cpu_model()]
        if device != CPU:
            facts.append(device_name(device))
        self.facts = tuple(facts)
        model = core().read_model(file.path)
        ports = [model.output(name) for name in outputs]
        self._model = ov.Model(ports, model.get_parameters())
        self.size = _only_size(self._model)
        self._cache_dir = cache_dir
        self._config = config(precision, threads, cache_dir, device)
        self._fixed: OrderedDict[tuple[int, ...], Future[_Compiled]] = OrderedDict()
        self._most_fixed = most_fixed
        self._max_in_flight = max_in_flight
        self._running: dict[int, tuple[_Compiled, _Inference]] = {}
        self._next_token = 0

    def submit(self, bgr: ByteArray, fixed: bool = False) -> int:
        """Start inference; return a token for `read`.

        bgr    uint8 (h, w, 3)
        fixed  use the network that is compiled for this size only

        Raises ArrayMismatch, TooManyInFlight.
        """
        width, height = self.size or (None, None)
        checked = read_only("bgr", bgr, np.uint8, (height, width, 3))
        if checked.size == 0 or (self.size is None and any(n % STEP for n in checked.shape[:2])):
            raise ArrayMismatch("bgr", f"sides that are multiples of {STEP}", f"{checked.shape}")
        if len(self._running) >= self._max_in_flight:
            raise TooManyInFlight(self._max_in_flight)
        shape: tuple[int, ...] = _ANY
        if fixed:
            shape = checked.shape
        compiled = self._compiled(shape)
        request = compiled.request()
        request.start(checked)
        token = self._next_token
        self._next_token += 1
        self._running[token] = compiled, request
        return token

    def wait(self, token: int) -> None:
        """Wait for the outputs of a token."""
        self._running[token][1].wait()

    def read(self, token: int, reader: Callable[[Sequence[FloatArray]], T]) -> T:
        """Wait, then return `reader(outputs)`; the outputs are float32 without the batch axis.

        The next picture reuses the memory of the outputs, so `reader` must not keep them. A token
        can be read once.
        """
        compiled, request = self._running[token]
        try:
            request.wait()
            return reader(request.outputs())
        finally:
            del self._running[token]
            compiled.idle.append(request)

    def warm_up(self, sizes: Sequence[tuple[int, int]], fixed: bool = False) -> None:
        """Run once at each (width, height), as the first input of a size takes four times longer.

        Raises WarmUpFailed if the network fails or its outputs are not finite.
        """
        for width, height in sizes:
            shape = (height, width, 3)
            try:
                token = self.submit(np.zeros(shape, np.uint8), fixed)
                finite = self.read(token, lambda out: all(np.isfinite(a).all() for a in out))
            except (RuntimeError, ArrayMismatch) as fault:
                raise WarmUpFailed(self.name, shape, str(fault)) from fault
            if not finite:
                raise WarmUpFailed(self.name, shape, "outputs are not finite")

    def expect(self, sizes: Sequence[tuple[int, int]]) -> None:
        """Start to compile for each fixed (width, height), on a thread.

        A call of `submit` meanwhile waits for its own size only. While earlier sizes are compiled,
        the call has no effect; otherwise a camera that changes its picture size all the time would
        keep a core busy.
        """
        if self.size is not None or any(not each.done() for each in self._fixed.values()):
            return
        missing = [(h, w, 3) for w, h in sizes if (h, w, 3) not in self._fixed]
        for shape in missing[: self._most_fixed]:
            self._keep(shape, _compiler.submit(self._compile, shape))

    def close(self) -> None:
        """Stop compiling for expected sizes, so that the process can end."""
        for shape, compiled in list(self._fixed.items()):
            if compiled.cancel():
                del self._fixed[shape]

    def _compiled(self, shape: tuple[int, ...]) -> _Compiled:
        """Return the network for an input shape, or for all shapes with _ANY."""
        compiled = self._fixed.get(shape)
        has_failed = compiled is not None and compiled.done() and compiled.exception() is not None
        # `cancel` succeeds if the thread has not started; then compiling here is sooner.
        if compiled is None or has_failed or compiled.cancel():
            compiled = Future()
            compiled.set_running_or_notify_cancel()  # so that `close` on another thread leaves it
            self._keep(shape, compiled)
            try:
                compiled.set_result(self._compile(shape))
            except BaseException as fault:
                compiled.set_exception(fault)
                del self._fixed[shape]
                raise
        self._fixed.move_to_end(shape)
        return compiled.result()

    def _keep(self, shape: tuple[int, ...], compiled: Future[_Compiled]) -> None:
        self._fixed[shape] = compiled
        while len(self._fixed) > self._most_fixed:
            self._fixed.popitem(last=False)[1].cancel()

    def _compile(self, shape: tuple[int, ...]) -> _Compiled:
        model = self._model
        if shape != _ANY:
            model = model.clone()
            model.reshape([1, *shape])
        if self._cache_dir is None:
            return self._compiled_now(model)
        # With a cache, OpenVINO sets the locale of the process to C and then back to what it was:
        # of two threads at once, the later one finds C and leaves it.
        with _one_in_process, locked(self._cache_dir, _LOCKED_S):
            return self._compiled_now(model)

    def _compiled_now(self, model: ov.Model) -> _Compiled:
        return _Compiled(core().compile_model(model, self._device, self._config))


_one_in_process: Final = Lock()
_LOCKED_S: Final = 10.0  # longest wait for other processes that compile
_ANY: Final = ()  # the key of the network for all sizes
_compiler: Final = ThreadPoolExecutor(1, "compile")


@dataclass(slots=True)
class _Compiled:
    """A compiled network and its idle requests."""

    compiled: Any
    idle: list[_Inference] = field(default_factory=list)

    def request(self) -> _Inference:
        if self.idle:
            return self.idle.pop()
        return _Inference(self.compiled.create_infer_request())


class _Inference:
    """An inference request with its tensors.

    The tensors are looked up once: as a network leaves all caches cold, a lookup for each picture
    costs 0.2 of 5.7 ms.
    """

    def __init__(self, request: Any) -> None:
        self._request = request
        self._input = request.input_tensors[0]
        # On the CPU, output tensors follow the input's size. Other devices do not document that.
        devices = request.get_compiled_model().get_property("EXECUTION_DEVICES")
        self._outputs: Any = None
        if list(devices) == [CPU]:
            self._outputs = request.output_tensors

    def start(self, bgr: ByteArray) -> None:
        """Start inference on a copy of the picture."""
        self._input.shape = (1, *bgr.shape)
        self._input.data[0] = bgr
        self._request.start_async()

    def wait(self) -> None:
        """Wait for the outputs."""
        self._request.wait()

    def outputs(self) -> list[FloatArray]:
        """Return the outputs without the batch axis, in memory that the next picture reuses."""
        tensors = self._outputs
        if tensors is None:
            tensors = self._request.output_tensors
        return [tensor.data[0] for tensor in tensors]


def _only_size(model: ov.Model) -> tuple[int, int] | None:
    shape = model.input().get_partial_shape()
    if shape.is_dynamic:
        return None
    return int(shape[2].get_length()), int(shape[1].get_length())


_HINTS = {"bf16": "bf16", "int8+bf16": "bf16", "f16": "f16"}


def config(
    precision: Precision, threads: int, cache_dir: Path | None = None, device: str = CPU
) -> dict[str, Any]:
    """Return OpenVINO's configuration for a network."""
    options: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        # f32 is explicit as well, because the default on some CPUs is bf16.
        "INFERENCE_PRECISION_HINT": _HINTS.get(precision, "f32"),
    }
    if device == CPU:
        options |= {
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": threads,
            # With pinning, threads of two processes would share a core and leave another idle.
            "ENABLE_CPU_PINNING": False,
        }
    if cache_dir is not None:
        options["CACHE_DIR"] = str(cache_dir)
    return options
