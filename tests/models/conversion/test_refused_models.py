"""What is refused, each with its reason; nothing of it ends up in the registry."""

from __future__ import annotations

import importlib.util
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from framegate.models.conversion.sandbox import SandboxLimits
from framegate.models.errors import ModelError, ModelRefused
from framegate.models.registry.registry import Registry
from tests.support import tiny_onnx
from tests.support.bad_models import (
    bare_pickle,
    grey_input,
    ir,
    leaving_manifest,
    no_detector,
    onnx,
    program_with_code,
    program_with_pickle,
    put,
    truncated_ir,
    two_inputs,
    weights_alone,
    word,
    wrong_hash,
    zip_bomb,
    zipped_pickle,
)

pytestmark = pytest.mark.whole_run

TIGHT = SandboxLimits(memory_bytes=900 << 20, wall_s=120)

REFUSALS: dict[str, tuple[Callable[[Path], Path], dict, str]] = {
    "wrong hash": (wrong_hash, {}, r"model\.bin: expected sha256 \w{64}, found \w{64}"),
    "a manifest whose path leaves its folder":
        (leaving_manifest, {}, r"files = '\.\./\.\./outside': allowed is a plain file name"),
    "a pickle": (bare_pickle, {}, "a pickle, as torch.save writes it: .*Export the network"),
    "a pickle in a zip": (zipped_pickle, {}, "a pickle, as torch.save writes it"),
    "a program whose weights are pickles": (program_with_pickle, {}, "weights in it are a pickle"),
    "a program with code in it": (program_with_code, {}, "is no plain arithmetic"),
    "a program with code in full-width letters":
        (lambda tmp: program_with_code(tmp, "\uff45\uff56\uff41\uff4c(1)"), {},
         "is no plain arithmetic"),
    "a zip bomb": (zip_bomb, {}, r"a zip bomb: \d+ bytes that unpack to 104857600; allowed are"),
    "truncated ONNX":
        (onnx(lambda: tiny_onnx.detector()[:-500]), {}, r"damaged ONNX file \(\d+ bytes are"),
    "an empty file": (onnx(bytes), {}, "an empty file"),
    "truncated IR": (truncated_ir, {}, "weights"),
    "weights alone": (weights_alone, {}, "weights without a network; allowed: ONNX"),
    "two inputs": (two_inputs, {}, r"it has 2 inputs \(a, b\); only one, a picture, is"),
    "one channel": (grey_input, {}, r"its input is \[1,1,48,64\]; allowed is a picture with 3"),
    "outputs of no format":
        (no_detector, {}, r"its outputs features \[1, 3\] fit no known format \(yolo"),
    "outputs of another format":
        (lambda tmp: ir(tmp / "net.xml"), {"format": "centernet_usual"},
         r"do not fit centernet_usual: .*3 outputs of 3, 3, 3 axes"),
    "options that make no sense":
        (lambda tmp: ir(tmp / "net.xml"), {"format": "nanodet_joined", "options": {"strides": 8}},
         "cannot be read as nanodet_joined"),
    "a format that nobody knows":
        (lambda tmp: ir(tmp / "net.xml"), {"format": "yolo99"}, "yolo99 is unknown; allowed are"),
    "other classes":
        (lambda tmp: ir(tmp / "net.xml"), {"classes": ("a", "b")},
         r"2 classes do not fit its outputs output0 \[1, 7, 12\]: they have 3 \(yolo\)"),
    "NaN": (lambda tmp: ir(tmp / "net.xml", spoilt=np.nan), {},
            r"output output0 has 12 of 84 numbers that are NaN or infinite \(f32\)"),
    "boxes outside": (lambda tmp: ir(tmp / "net.xml", spoilt=5000), {},
                      "the centre of 12 of 12 boxes lies outside the picture"),
    "no classes": (lambda tmp: ir(tmp / "net.xml"), {"classes": None},
                   "does not name its 3 classes; choose with --classes"),
    "an operator set that is too new":
        (onnx(lambda: tiny_onnx.detector(opset=99)), {}, "ONNX operator set 99: allowed are 7 to"),
    "an operator that nobody knows":
        (onnx(lambda: tiny_onnx.detector(operator="Fancy", domain="com.acme")), {},
         r"No conversion rule found for operations: com\.acme\.Fancy"),
    "an operator whose name controls a terminal":
        (onnx(lambda: tiny_onnx.detector(operator="Fancy\x1b[2J", domain="com.acme")), {},
         "com\\.acme\\.Fancy\ufffd\\[2J"),
    "weights outside of the folder":
        (onnx(lambda: tiny_onnx.detector(external="../secret")), {},
         r"its weights are in '\.\./secret'; allowed is a plain name of a file beside it"),
    "weights that are not there":
        (onnx(lambda: tiny_onnx.detector(external="weights.bin")), {}, "refused: No such"),
    "out of memory": (lambda tmp: ir(tmp / "net.xml", 4096, 4096), {"limits": TIGHT},
                      "reading it needs more than 900 MiB of memory"),
    "time out": (lambda tmp: ir(tmp / "net.xml"), {"limits": SandboxLimits(wall_s=0.01)},
                 "reading it took more than 0.01 s"),
    "CPU time": (lambda tmp: ir(tmp / "net.xml"), {"limits": SandboxLimits(cpu_s=0)},
                 "reading it needs more than 0 s of CPU time"),
    "neither": (word, {}, "unknown file type; allowed: ONNX"),
    "a file that is not there": (lambda tmp: tmp / "no.onnx", {}, "No such file"),
    "a device": (lambda _: Path("/dev/zero"), {}, "no regular file"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSALS)
def test_refused(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make, changes, words = REFUSALS[case]
    file = make(tmp_path)
    registry = Registry(tmp_path / "registry")
    with pytest.raises(ModelError, match=words):
        put(file, registry, changes)
    assert registry.all_models() == ([], [])
    assert not list(tmp_path.rglob("pickled"))


@pytest.mark.skipif(importlib.util.find_spec("torch") is not None, reason="torch is installed")
def test_what_needs_torch_says_so(tmp_path):
    registry = Registry(tmp_path / "registry")
    file = tmp_path / "net.pt"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("net/constants.pkl", b"")
        archive.writestr("net/code/net.py", b"")
    with pytest.raises(ModelRefused, match=r"needs torch .*pip install '\.\[train\]'"):
        put(file, registry, {})
