"""A model at a KServe v2 server, found ready, and what it answers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from framegate.pipeline.heavy.kserve_address import Address
from framegate.pipeline.heavy.kserve_tensors import INPUTS, OUTPUTS, Array
from framegate.pipeline.heavy.kserve_transports import Grpc, Http
from framegate.pipeline.heavy.questions import PlaceFailed

_SLICE_S = 1.0


class KServeClient:
    """One connection, of the thread that made it. Every fault is a PlaceFailed."""

    def __init__(self, at: Address) -> None:
        """Connect, see that server, model and version are ready and that its tensors are ours."""
        self._at = at
        self._transport = Grpc(at) if at.is_grpc else Http(at)
        try:
            with self._faults():
                self._check()
                if not at.is_grpc:
                    metadata = self._transport.call("get_server_metadata")
                    extensions = metadata.get("extensions", ())
                    self._transport.takes_bytes = "binary_tensor_data" in extensions
        except BaseException:
            self.close()
            raise

    def _check(self) -> None:
        at, call = self._at, self._transport.call
        model = f"model {at.model}{f', version {at.version}' if at.version else ''}"
        if not call("is_server_ready"):
            raise PlaceFailed(f"{at} is not ready")
        if not call("is_model_ready", at.model, at.version):
            raise PlaceFailed(f"{model} at {at} is not ready")
        metadata = call("get_model_metadata", at.model, at.version)
        for side, wanted in (("inputs", INPUTS), ("outputs", OUTPUTS)):
            found = {one["name"]: one["datatype"] for one in metadata.get(side, ())}
            if found != wanted:
                raise PlaceFailed(f"{model} at {at} has the {side} {found}; expected are {wanted}")

    @property
    def takes_bytes(self) -> bool:
        """Whether tensors travel as they are: over HTTP a server may know JSON alone."""
        return self._transport.takes_bytes

    def infer(
        self, inputs: Mapping[str, Array], until_mono: float, closed: Callable[[], bool]
    ) -> dict[str, Array]:
        """The outputs. PlaceFailed if there are none by then, or once it is closed."""
        with self._faults():
            given = [self._transport.input(name, array) for name, array in inputs.items()]
            wait = self._transport.begin(given, [*OUTPUTS], until_mono)
            while (left_s := until_mono - time.monotonic()) > 0 and not closed():
                result = wait(min(left_s, _SLICE_S))
                if result is not None:
                    return {name: result.as_numpy(name) for name in OUTPUTS}
        raise PlaceFailed(f"{self._at} gave no answer in time")

    def close(self) -> None:
        """Close the connection, whatever is under way. In the thread that made it."""
        self._transport.close()

    @contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except PlaceFailed:
            raise
        except Exception as error:  # of gevent, gRPC, tritonclient: they share no root
            if "DEADLINE_EXCEEDED" in str(error):  # gRPC's own clock may be first
                raise PlaceFailed(f"{self._at} gave no answer in time") from error
            raise PlaceFailed(f"{self._at}: {str(error) or type(error).__name__}") from error
