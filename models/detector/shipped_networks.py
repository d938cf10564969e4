"""The networks that are part of Framegate: decoder, classes, outputs, input size.

`policy.toml` makes detectors of them; `network.shipped` opens their files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from framegate.models.boxes import Boxes, FloatArray
from framegate.models.detector.device_names import CPU
from framegate.models.detector.member import Kind
from framegate.models.detector.network import Network, Precision, shipped
from framegate.models.detector.policy import CLASS_IDS
from framegate.models.formats import detr, nanodet
from framegate.models.formats.shared_decoding import Size


@dataclass(frozen=True, slots=True)
class ShippedNetwork:
    """A network that is part of Framegate.

    kind     decoder and published classes
    outputs  names of the outputs that the decoder reads
    size     (width, height) of the only input size; None: all multiples of 32
    """

    kind: Kind
    outputs: tuple[str, ...]
    size: Size | None = None


def _decode_surveillance(
    outputs: Sequence[FloatArray],
    size: Size,
    min_score: float,
    max_boxes: int,  # noqa: ARG001
) -> Boxes:
    """Return the boxes of a surveillance network; see `member.Kind`."""
    return detr.labelled(outputs, size, len(CLASS_IDS["surveillance"]), min_score, {})


def _surveillance(name: str, size: Size) -> ShippedNetwork:
    kind = Kind(name, _decode_surveillance, 3, CLASS_IDS[name])
    return ShippedNetwork(kind, ("boxes", "scores", "labels"), size=size)


NETWORKS: Final[Mapping[str, ShippedNetwork]] = MappingProxyType({
    "nanodet-plus": ShippedNetwork(
        Kind("nanodet-plus", nanodet.decode_plus, 1, CLASS_IDS["nanodet-plus"]), ("cells",)
    ),
    "surveillance": _surveillance("surveillance", (448, 256)),
    "surveillance-large": _surveillance("surveillance-large", (864, 480)),
})  # fmt: skip


def compiled(
    name: str,
    precision: Precision,
    threads: int,
    cache_dir: Path | None = None,
    device: str = CPU,
) -> Network:
    """Return the compiled network `name`; arguments as for `Network`.

    Raises PrecisionUnsupported, ModelUnreadable.
    """
    network = NETWORKS[name]
    return Network(
        shipped(name, precision),
        network.outputs,
        precision,
        threads,
        cache_dir,
        device=device,
    )
