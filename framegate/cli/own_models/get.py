"""`framegate models get`: download a published detector with a known digest, and add it."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from framegate.cli.console.arguments import add_registry
from framegate.cli.console.terminal import Meter
from framegate.cli.help import ending
from framegate.cli.own_models.add import ADD_DEFAULTS, add_from_url, add_proof
from framegate.pipeline.contracts.errors import ConfigFaults, Exit, did_you_mean
from framegate.pipeline.system.download import is_url

_YOLOX: Final = "https://github.com/Megvii-BaseDetection/YOLOX/releases/download/0.1.1rc0"


@dataclass(frozen=True)
class PublishedModel:
    """A detector in a release of its authors.

    sha256   of the file, 64 hexadecimal digits
    classes  as for `models add`
    format   of its outputs
    licence  of code and weights, as the release's repository states it
    about    its size and accuracy, by its authors
    """

    url: str
    sha256: str
    classes: str
    format: str
    licence: str
    about: str


def _yolox(size: str, sha256: str, about: str) -> PublishedModel:
    return PublishedModel(
        f"{_YOLOX}/yolox_{size}.onnx", sha256, "coco", "yolox", "Apache-2.0", about
    )


# The release states no digests. Several public projects that download the file from this
# address state the same digest (docs/models.md).
PUBLISHED: Final[Mapping[str, PublishedModel]] = MappingProxyType({
    "yolox-nano": _yolox(
        "nano",
        "c789161ed43c8269fcd4e67c67eeeb4e80c622da2eb296a20bc6007bd18a0b7d",
        "3.7 MB, input 416, mAP 25.8",
    ),
    "yolox-tiny": _yolox(
        "tiny",
        "427cc366d34e27ff7a03e2899b5e3671425c262ea2291f88bb942bc1cc70b0f7",
        "20 MB, input 416, mAP 32.8",
    ),
    "yolox-s": _yolox(
        "s",
        "c5c2d13e59ae883e6af3b45daea64af4833a4951c92d116ec270d9ddbe998063",
        "36 MB, input 640, mAP 40.5",
    ),
})  # fmt: skip


def register(verbs: Any) -> None:
    """Add the verb to those of `framegate models`."""
    listed = "; ".join(f"{name}: {each.about}" for name, each in PUBLISHED.items())
    verb = verbs.add_parser(
        "get",
        help="download a published detector with a known digest, and add it",
        description="Download a detector from the release of its authors, check its digest, test "
        f"it on pictures, and add it under its name. {listed}; all Apache-2.0, COCO's 80 classes.",
        epilog=ending(
            "framegate models get yolox-s",
            "framegate models get yolox-s --url http://mirror.example/yolox_s.onnx",
            page="models",
        ),
    )
    verb.set_defaults(**{**ADD_DEFAULTS, "command": _get})
    verb.add_argument("known", metavar="NAME", help=", ".join(PUBLISHED))
    verb.add_argument(
        "--url", metavar="URL", help="another place that has the same file (default: the release)"
    )
    add_proof(verb)
    add_registry(verb)


def _get(parsed: argparse.Namespace) -> Exit:
    model = PUBLISHED.get(parsed.known)
    if model is None:
        near = did_you_mean(parsed.known, PUBLISHED)
        raise ConfigFaults(
            [f"{parsed.known}: unknown; must be any of {', '.join(PUBLISHED)}{near}; `framegate "
             "models add URL --sha256 HEX` adds other files"]
        )  # fmt: skip
    url = parsed.url or model.url
    if not is_url(url):
        raise ConfigFaults([f"--url {url}: must begin with http:// or https://"])
    settled = vars(parsed) | {
        "file": url,
        "sha256": model.sha256,
        "name": parsed.known,
        "classes": model.classes,
        "format": model.format,
        "licence": model.licence,
    }
    with Meter() as meter:
        return add_from_url(argparse.Namespace(**settled), meter)
