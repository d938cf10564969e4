"""Narrower copies of the general detector, and the least squares that give them their weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import openvino as ov
import pytest

torch = pytest.importorskip("torch", reason="the train extra is not installed")

from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402

from framegate.models.detector.network import config, core  # noqa: E402
from framegate.models.errors import ArrayMismatch  # noqa: E402
from framegate.models.quantisation.int8 import halve_exact_constants  # noqa: E402
from framegate.models.training.export_ir import convert, export  # noqa: E402
from framegate.models.training.student import (  # noqa: E402  # noqa: E402
    RIDGE,
    Architecture,
    Student,
    as_input,
    multiplications,
    narrowed,
)
from framegate.models.weights import FOLDER  # noqa: E402


def made(width: int, n_classes: int) -> Student:
    """As wide everywhere."""
    stages = (width, width, width, width)
    return Student(Architecture(stages, pyramid=width, n_classes=n_classes)).eval()


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)


def pictures(n: int = 4, height: int = 64, width: int = 96) -> torch.Tensor:
    rng = np.random.default_rng(3)
    return as_input(rng.integers(0, 256, (n, height, width, 3), np.uint8))


def lively(net: Student) -> Student:
    """With weights that let activations neither die nor grow, as a trained network has them."""
    for conv in net.modules():
        if isinstance(conv, nn.Conv2d):
            nn.init.kaiming_normal_(conv.weight, a=0.1)
            nn.init.normal_(conv.bias, std=0.1)
    return net.eval()


def test_of_equal_width_it_is_the_same_network() -> None:
    wide = lively(made(16, 5))
    same = narrowed(wide, made(16, 5), pictures(), range(5))
    with torch.no_grad():
        for ours, theirs in zip(same(pictures())[:3], wide(pictures())[:3], strict=True):
            assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()


def test_a_narrow_layer_is_the_ridge_solution() -> None:
    """The stem's own: all its cells are few enough to be looked at, so numpy can say what it is."""
    wide, narrow = lively(made(16, 5)), made(8, 5)
    of_wide, of_narrow = wide.stem.conv, narrow.stem.conv
    narrowed(wide, narrow, pictures(), range(5))
    normal = (pictures() - wide.mean) / wide.std
    with torch.no_grad():
        before = of_wide(normal)
    told = functional.leaky_relu(before, 0.1).std((0, 2, 3)).numpy()
    kept = np.argsort(-told)[:8]
    patches = functional.unfold(normal, 3, padding=1, stride=2).transpose(1, 2).reshape(-1, 27)
    inputs = np.hstack([patches.numpy(), np.ones((len(patches), 1))]).astype(np.float64)
    wanted = before.permute(0, 2, 3, 1).reshape(-1, 16).numpy()[:, kept].astype(np.float64)
    own = np.hstack([of_wide.weight.detach().numpy()[kept].reshape(8, 27),
                     of_wide.bias.detach().numpy()[kept, None]])  # fmt: skip
    weight = np.sqrt(RIDGE * (inputs**2).sum(0).mean())
    rows = np.vstack([inputs, weight * np.eye(28)])
    expected = np.linalg.lstsq(rows, np.vstack([wanted, weight * own.T]), rcond=None)[0].T
    np.testing.assert_allclose(
        of_narrow.weight.detach().numpy().reshape(8, 27), expected[:, :27], atol=1e-5
    )
    np.testing.assert_allclose(of_narrow.bias.detach().numpy(), expected[:, 27], atol=1e-5)


def test_a_deep_layer_reads_the_narrow_network_and_answers_for_the_wide_one() -> None:
    """A layer after concatenations: its residual is at right angles to its own inputs (ridge 0)."""
    wide, narrow = lively(made(16, 5)), made(8, 5)
    narrowed(wide, narrow, pictures(), range(5), ridge=1e-9)
    seen: dict[str, torch.Tensor] = {}

    def keep(name: str) -> object:
        return lambda _, given, out: seen.update({f"{name} in": given[0], f"{name} out": out})

    for name, net in (("wide", wide), ("narrow", narrow)):
        net.stages[1].exit.conv.register_forward_hook(keep(name))
        with torch.no_grad():
            net(pictures())
    told = functional.leaky_relu(seen["wide out"], 0.1).std((0, 2, 3))
    kept = told.topk(8).indices
    gap = (seen["wide out"][:, kept] - seen["narrow out"]).permute(0, 2, 3, 1).flatten(0, 2)
    inputs = functional.unfold(seen["narrow in"], 3, padding=1).transpose(1, 2).flatten(0, 1)
    along = inputs.double().T @ gap.double() / (inputs.norm() * gap.norm())
    assert along.abs().max() < 1e-4


def test_the_head_keeps_the_classes_that_are_named_in_their_order() -> None:
    wide = lively(made(16, 5))
    cut = narrowed(wide, made(16, 3), pictures(), [4, None, 1])
    with torch.no_grad():
        ours, theirs = cut(pictures())[0], wide(pictures())[0]
    for place, was in ((0, 4), (2, 1), (slice(3, None), slice(5, None))):
        assert (ours[:, place] - theirs[:, was]).abs().max() <= 1e-5 * theirs.abs().max()
    assert torch.sigmoid(ours[:, 1]).max() == pytest.approx(0.01, abs=1e-3)


def test_a_student_of_the_registrys_format_answers_as_its_torch_module() -> None:
    net = lively(made(16, 2))
    compiled = core().compile_model(export(net, (96, 64)), "CPU", config("f32", 1))
    bgr = np.random.default_rng(0).integers(0, 256, (1, 64, 96, 3), np.uint8)
    found = compiled([bgr])
    with torch.no_grad():
        expected = net(as_input(bgr))[:3]
    for name, theirs in zip(("head8", "head16", "head32"), expected, strict=True):
        assert theirs.shape[1] == 2 + 44
        scale = float(theirs.abs().max())
        np.testing.assert_allclose(found[name], theirs.numpy(), atol=2e-3 * scale)


def test_half_the_channels_are_a_quarter_of_the_work() -> None:
    of_whole = multiplications(Student(Architecture()), (416, 256))
    half = Student(Architecture().times(0.5, n_classes=1))
    assert of_whole == pytest.approx(1.29e9, rel=0.01)
    assert 0.13 < multiplications(half, (320, 192)) / of_whole < 0.16


def test_a_size_that_the_network_cannot_take_is_refused() -> None:
    with pytest.raises(ArrayMismatch, match=r"size: .*\(64, 60\)"):
        export(made(8, 1), (64, 60))


def test_a_part_of_a_picture_gives_what_the_whole_gives() -> None:
    """No layer looks at the whole picture, or crops of the gate would see something else."""
    network = lively(made(16, 1))
    whole = 255 * torch.rand(1, 3, 64, 512)
    with torch.no_grad():
        c3, part = network(whole)[3], network(whole[..., 128:])[3]
    assert torch.allclose(part[..., 24:], c3[..., 40:], atol=1e-3)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda whole: replace(whole, pyramid=20), "width: 20"),
        (lambda whole: replace(whole, stages=(8, 8, 12, 8)), "width: 12"),
        (lambda whole: whole.times(0.5, n_classes=0), "n_classes: 0"),
        (lambda whole: whole.times(1.5), "share: 1.5"),
    ],
)
def test_a_width_that_cannot_be_is_named(
    change: Callable[[Architecture], Architecture], named: str
) -> None:
    with pytest.raises(ValueError, match=named):
        change(Architecture())


def test_the_shipped_network_is_made_of_the_general_students_weights(tmp_path: Path) -> None:
    """The names of layers in the .xml are torch's, which change; what is computed does not."""
    file, shipped = tmp_path / "nanodet.xml", FOLDER / "nanodet.xml"
    ov.save_model(halve_exact_constants(convert("nanodet")), file, compress_to_fp16=False)
    assert _layers(file) == _layers(shipped)
    assert file.with_suffix(".bin").read_bytes() == shipped.with_suffix(".bin").read_bytes()


def _layers(file: Path) -> list[tuple[str | None, dict[str, str]]]:
    """What each layer computes, in their order."""
    return [
        (layer.get("type"), data.attrib if (data := layer.find("data")) is not None else {})
        for layer in ElementTree.parse(file).iter("layer")
    ]
