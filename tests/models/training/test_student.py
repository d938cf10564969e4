"""Narrower copies of NanoDet, and the least squares that give them their weights."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the train extra is not installed")

from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402

from framegate.models.detector.network import config, core  # noqa: E402
from framegate.models.errors import ArrayMismatch  # noqa: E402
from framegate.models.training.nanodet import NanoDet, Widths  # noqa: E402
from framegate.models.training.narrowing import RIDGE, narrowed  # noqa: E402
from framegate.models.training.student import (  # noqa: E402
    StudentSpec,
    as_input,
    build,
    export,
    multiplications,
)

TINY = Widths(8, (16, 16, 16, 16), 16)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)


def pictures(n: int = 4, height: int = 64, width: int = 96) -> torch.Tensor:
    rng = np.random.default_rng(3)
    return as_input(rng.integers(0, 256, (n, height, width, 3), np.uint8))


def lively(net: NanoDet) -> NanoDet:
    """With weights that let activations neither die nor grow, as a trained network has them."""
    for conv in net.convolutions():
        nn.init.kaiming_normal_(conv.weight, a=0.1)
        nn.init.normal_(conv.bias, std=0.1)
    return net.eval()


def test_of_equal_width_it_is_the_same_network() -> None:
    wide = lively(NanoDet(TINY, 5))
    same = narrowed(wide, NanoDet(TINY, 5).eval(), pictures(), range(5))
    with torch.no_grad():
        for ours, theirs in zip(same(pictures()), wide(pictures()), strict=True):
            assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()


def test_a_narrow_layer_is_the_ridge_solution() -> None:
    """The stem's own: all its cells are few enough to be looked at, so numpy can say what it is."""
    wide, narrow = lively(NanoDet(TINY, 5)), NanoDet(Widths(4, (8, 8, 8, 8), 8), 5).eval()
    narrowed(wide, narrow, pictures(), range(5))
    normal = (pictures() - wide.mean) / wide.std
    with torch.no_grad():
        before = wide.stem.conv(normal)
    told = functional.leaky_relu(before, 0.1).std((0, 2, 3)).numpy()
    kept = np.sort(np.argsort(-told)[:4])
    patches = functional.unfold(normal, 3, padding=1, stride=2).transpose(1, 2).reshape(-1, 27)
    inputs = np.hstack([patches.numpy(), np.ones((len(patches), 1))]).astype(np.float64)
    wanted = before.permute(0, 2, 3, 1).reshape(-1, 8).numpy()[:, kept].astype(np.float64)
    own = np.hstack([wide.stem.conv.weight.detach().numpy()[kept].reshape(4, 27),
                     wide.stem.conv.bias.detach().numpy()[kept, None]])  # fmt: skip
    weight = np.sqrt(RIDGE * (inputs**2).sum(0).mean())
    rows = np.vstack([inputs, weight * np.eye(28)])
    expected = np.linalg.lstsq(rows, np.vstack([wanted, weight * own.T]), rcond=None)[0].T
    np.testing.assert_allclose(
        narrow.stem.conv.weight.detach().numpy().reshape(4, 27), expected[:, :27], atol=1e-5
    )
    np.testing.assert_allclose(narrow.stem.conv.bias.detach().numpy(), expected[:, 27], atol=1e-5)


def test_a_deep_layer_reads_the_narrow_network_and_answers_for_the_wide_one() -> None:
    """A layer after concatenations: its residual is at right angles to its own inputs (ridge 0)."""
    wide, narrow = lively(NanoDet(TINY, 5)), NanoDet(TINY.times(0.5), 5).eval()
    narrowed(wide, narrow, pictures(), range(5), ridge=1e-9)
    seen: dict[str, torch.Tensor] = {}

    def keep(name: str) -> object:
        return lambda _, given, out: seen.update({f"{name} in": given[0], f"{name} out": out})

    for name, net in (("wide", wide), ("narrow", narrow)):
        net.stage3.exit.conv.register_forward_hook(keep(name))
        with torch.no_grad():
            net(pictures())
    told = functional.leaky_relu(seen["wide out"], 0.1).std((0, 2, 3))
    kept = told.topk(narrow.stage3.exit.conv.out_channels).indices.sort().values
    gap = (seen["wide out"][:, kept] - seen["narrow out"]).permute(0, 2, 3, 1).flatten(0, 2)
    inputs = functional.unfold(seen["narrow in"], 3, padding=1).transpose(1, 2).flatten(0, 1)
    along = inputs.double().T @ gap.double() / (inputs.norm() * gap.norm())
    assert along.abs().max() < 1e-4


def test_the_head_keeps_the_classes_that_are_named_in_their_order() -> None:
    wide = lively(NanoDet(TINY, 5))
    cut = narrowed(wide, NanoDet(TINY, 3).eval(), pictures(), [4, None, 1])
    with torch.no_grad():
        ours, theirs = cut(pictures())[0], wide(pictures())[0]
    for place, was in ((0, 4), (2, 1), (slice(3, None), slice(5, None))):
        assert (ours[:, place] - theirs[:, was]).abs().max() <= 1e-5 * theirs.abs().max()
    assert torch.sigmoid(ours[:, 1]).max() == pytest.approx(0.01, abs=1e-3)


def test_a_student_of_the_registrys_format_answers_as_its_torch_module() -> None:
    spec = StudentSpec(("person", "crate"), (96, 64), 0.25)
    net = lively(build(spec))
    compiled = core().compile_model(export(net), "CPU", config("f32", 1))
    bgr = np.random.default_rng(0).integers(0, 256, (1, 64, 96, 3), np.uint8)
    found = compiled([bgr])
    with torch.no_grad():
        expected = net(as_input(bgr))[:3]
    for name, theirs in zip(("head8", "head16", "head32"), expected, strict=True):
        assert theirs.shape[1] == 2 + 44
        scale = float(theirs.abs().max())
        np.testing.assert_allclose(found[name], theirs.numpy(), atol=2e-3 * scale)


def test_half_the_channels_are_a_quarter_of_the_work() -> None:
    whole = StudentSpec(tuple(map(str, range(80))), (416, 256), 1.0)
    half = StudentSpec(("person",), (320, 192), 0.5)
    of_whole = multiplications(build(whole), whole.size)
    assert of_whole == pytest.approx(1.29e9, rel=0.01)
    assert 0.13 < multiplications(build(half), half.size) / of_whole < 0.16


@pytest.mark.parametrize(
    ("labels", "size", "share"),
    [((), (64, 64), 0.5), (("a",), (64, 60), 0.5), (("a",), (0, 64), 0.5), (("a",), (64, 64), 0)],
)
def test_what_no_network_can_be_built_of_is_refused(
    labels: tuple[str, ...], size: tuple[int, int], share: float
) -> None:
    with pytest.raises(ArrayMismatch):
        StudentSpec(labels, size, share)
