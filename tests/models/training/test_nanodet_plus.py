"""The torch module of NanoDet-Plus: equal to the shipped network, and its widths."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the train extra is not installed")

from framegate.models.detector.network import config, core  # noqa: E402
from framegate.models.errors import ArrayMismatch, ModelUnreadable  # noqa: E402
from framegate.models.picture import prepare, read_photograph  # noqa: E402
from framegate.models.training.export_ir import export  # noqa: E402
from framegate.models.training.nanodet_plus import (  # noqa: E402
    Architecture,
    NanoDetPlus,
    as_input,
    general,
    multiplications,
)
from framegate.models.weights import FOLDER  # noqa: E402

PHOTOGRAPH = Path(__file__).parents[1] / "conversion" / "street.jpg"


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)


@pytest.mark.parametrize("long_side", [224, 416])
def test_it_computes_what_the_shipped_network_computes(long_side: int) -> None:
    """OpenVINO is the oracle. It has mean and scale of the picture in float16: hence 2e-3."""
    shipped = core().compile_model(FOLDER / "nanodet-plus.xml", "CPU", config("f32", 1))
    bgr = prepare(read_photograph(PHOTOGRAPH), long_side).bgr[None].copy()
    expected = shipped([bgr])[0]
    with torch.inference_mode():
        found = general()(as_input(bgr)).numpy()
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < 2e-3 * np.abs(expected).max()
    assert expected[..., :80].max() > -2  # a score above 0.12: something is in the picture


def test_exported_it_is_the_shipped_network_again() -> None:
    bgr = prepare(read_photograph(PHOTOGRAPH), 224).bgr[None]
    ours, shipped = (
        core().compile_model(model, "CPU", config("f32", 1))
        for model in (export(general()), FOLDER / "nanodet-plus.xml")
    )
    expected = shipped([bgr])["cells"]
    assert np.abs(ours([bgr])["cells"] - expected).max() < 2e-3 * np.abs(expected).max()


def test_a_size_that_the_network_cannot_take_is_refused() -> None:
    with pytest.raises(ArrayMismatch, match=r"size: .*\(64, 60\)"):
        export(NanoDetPlus(Architecture().times(0.25)), (64, 60))


def test_a_file_with_other_layers_is_refused() -> None:
    with pytest.raises(ModelUnreadable, match="convolutions"):
        general(FOLDER / "centerface.xml")


def test_a_part_of_a_picture_gives_what_the_whole_gives() -> None:
    """No layer looks at the whole picture, or crops of the gate would see something else."""
    stage = NanoDetPlus(Architecture().times(0.25, n_classes=1)).eval().stages[0]
    whole = torch.rand(1, 8, 16, 128)
    with torch.no_grad():
        assert torch.allclose(stage(whole[..., 64:])[..., 8:], stage(whole)[..., 40:], atol=1e-5)


def test_half_the_channels_are_about_a_quarter_of_the_work() -> None:
    of_whole = multiplications(NanoDetPlus(Architecture()), (416, 256))
    half = NanoDetPlus(Architecture().times(0.5, n_classes=1))
    assert of_whole == pytest.approx(0.915e9, rel=0.01)
    assert 0.25 < multiplications(half, (416, 256)) / of_whole < 0.30


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda whole: replace(whole, pyramid=24), "width: 24, not a multiple of 16"),
        (lambda whole: replace(whole, stages=(8, 12, 8)), "width: 12, not a multiple of 8"),
        (lambda whole: replace(whole, units=((8,) * 4,) * 3), r"units: .*, not \(4, 8, 4\)"),
        (lambda whole: replace(whole, n_classes=0), "n_classes: 0"),
        (lambda whole: whole.times(1.5), "share: 1.5"),
    ],
)
def test_a_width_that_cannot_be_is_named(
    change: Callable[[Architecture], Architecture], named: str
) -> None:
    with pytest.raises(ValueError, match=named):
        change(Architecture())
