"""Makes `weights/nanodet-int8.*` or `nanodet-plus-int8.*` with NNCF (needs the `train` extra).

    python -m tools.quantise nanodet FOLDER_OF_PHOTOGRAPHS
    python -m tools.quantise nanodet-plus FOLDER_OF_PHOTOGRAPHS --published FOLDER

Calibrated on all photographs of the folder: `images/coco128`, and no other set, made the committed
file. NNCF's accurate bias correction takes some ten seconds more than its fast one and gave .010
more mAP on that set (.330 against .320; float32 .332).

NanoDet-Plus is quantised from what `tools.import_nanodet_plus` reads from FOLDER, in float32. Its
last layers stay float: they cost little time. Against float32 it lost .012 mAP (95 %: -.005 to
.028), with bf16 -.001 (-.012 to .010), on images/coco-val2017-a, which nothing was tuned on, and
.009 (.001 to .019) on images/coco128. With the fast bias correction it lost .027 on the former.
"""

import argparse
from pathlib import Path

import openvino as ov

from framegate.models.picture import prepare, read_photograph
from framegate.models.quantisation.int8 import quantised
from framegate.models.weights import FOLDER
from tools import import_nanodet_plus

WEIGHTS = FOLDER
LONG_SIDE = 416


def float_nanodet() -> ov.Model:
    """Return NanoDet in float."""
    from framegate.models.training.export_ir import convert

    return convert("nanodet")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=("nanodet", "nanodet-plus"))
    parser.add_argument("photographs", type=Path)
    parser.add_argument("--published", type=Path, help="folder of NanoDet-Plus for ncnn")
    parsed = parser.parse_args()
    float_layers: tuple[str, ...] = ()
    if parsed.name == import_nanodet_plus.NAME:
        if parsed.published is None:
            parser.error("nanodet-plus needs --published FOLDER")
        network = import_nanodet_plus.convert(parsed.published)
        float_layers = import_nanodet_plus.HEADS
    else:
        network = float_nanodet()
    files = sorted(parsed.photographs.glob("*.jpg"))
    inputs = [prepare(read_photograph(file), LONG_SIDE).bgr[None] for file in files]
    # 8 bits: benchmarks/quantization shows that NanoDet keeps its accuracy without VNNI.
    small = quantised(network, inputs, float_layers=float_layers, weight_bits=8, accurate_bias=True)
    path = WEIGHTS / f"{parsed.name}-int8.xml"
    ov.save_model(small, path, compress_to_fp16=False)
    print(path.name, path.stat().st_size, path.with_suffix(".bin").stat().st_size)


if __name__ == "__main__":
    main()
