"""Parts of the benchmark of precisions, on a few pictures and rounds."""

import numpy as np
import pytest

pytest.importorskip("pycocotools", reason="pycocotools is not installed (bench extra)")

from benchmarks import quantization
from benchmarks.quantization.network_memory import in_a_process_of_its_own
from benchmarks.quantization.subjects import nanodet_plus
from framegate.models.detector import detector
from framegate.models.detector.network import core, supported
from framegate.models.formats.nanodet import decode_cells
from framegate.models.picture import from_bgr, to_source
from framegate.models.registry.open import fit


def picture(seed: int = 0):
    """Blocks of colour, in which the networks find a few things at a score of .05."""
    small = np.random.default_rng(seed).integers(0, 256, (9, 16, 3), dtype=np.uint8)
    return from_bgr(np.kron(small, np.ones((40, 40, 1), np.uint8)))


def test_a_subject_answers_as_the_shipped_detector_does():
    one = picture()
    [ours] = nanodet_plus(416).detect("f32", [one])
    [shipped] = detector.load("light", "f32", 2, min_score=0.05).detect([one])
    assert len(ours) == min(len(shipped), 100) > 0
    assert np.allclose(ours.scores, shipped.scores[:100], atol=1e-4)
    assert np.allclose(ours.xyxy, shipped.xyxy[:100], atol=0.1)


def test_the_yolo_style_file_says_what_nanodet_says_of_the_same_input(tmp_path):
    pytest.importorskip("onnx", reason="onnx is not installed (train extra)")
    from benchmarks.quantization.foreign_networks import YOLO_STYLE, decode, export, with_pictures

    yolo = YOLO_STYLE
    export(yolo, tmp_path / "yolo.onnx")
    prepared = fit(picture(), yolo.spec)
    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    run = core().compile_model(with_pictures(tmp_path / "yolo.onnx"), "CPU", exact)
    [output] = run([prepared.bgr[None]]).values()
    assert output.shape == (1, 84, 52**2 + 26**2 + 13**2 + 7**2)
    ours = decode(yolo, [output[0]], (416, 416), 0.05)
    [cells] = (
        core()
        .compile_model(nanodet_plus(416).model("f32"), "CPU", exact)([prepared.bgr[None]])
        .values()
    )
    theirs = decode_cells(cells[0], (416, 416), 0.05)
    assert len(ours) > 0
    for box, score, class_id in zip(ours.xyxy, ours.scores, ours.class_ids, strict=True):
        same = np.abs(theirs.xyxy - box).max(axis=1) < 0.1
        assert (
            same & (theirs.class_ids == class_id) & np.isclose(theirs.scores, score, atol=1e-3)
        ).any()
    placed = to_source(ours.xyxy, prepared)
    assert (placed >= 0).all()
    assert placed[:, 2].max() <= 640


def test_times_are_there_for_every_precision_and_thread_count():
    ms = quantization.timed(nanodet_plus(320), n_rounds=3)
    assert set(ms) == {(p, t) for p in supported() for t in quantization.THREADS}
    assert all(len(rounds) == 3 and min(rounds) > 0 for rounds in ms.values())


def test_the_weights_are_little_more_than_a_quarter_in_8_bits():
    n_bytes, share = quantization.weights(nanodet_plus(416), "int8")
    assert share == pytest.approx(n_bytes / (4 * 2.44e6), rel=0.01)
    assert share < 0.29
    assert quantization.weights(nanodet_plus(416), "f32")[1] == pytest.approx(0.5, abs=0.01)


def test_memory_is_that_of_a_process_which_loads_one_network():
    light = nanodet_plus(320)
    said = in_a_process_of_its_own(light.file("int8"), light.size, "int8", light.outputs)
    assert said["mib"] == pytest.approx(said["after"] - said["before"], abs=0.1)
    assert 3 < said["mib"] < 500


def row(precision: str, ms: float, map_: float, loss: float):
    judged = {"map": map_, "ap50": 0.5, "loss": loss, "loss_95": [loss - 0.01, loss + 0.01]}
    times = {"ms_1t": ms, "speedup_1t": 24 / ms, "speedup_2t": 23 / ms}
    return {"precision": precision, "weight_ratio": 0.251, quantization.JUDGED_ON: judged} | times


def test_the_summary_is_of_the_fastest_int8():
    table = [row("f32", 24, 0.3, 0), row("bf16", 9, 0.3, 0), row("int8", 10, 0.29, 0.01)]
    said = quantization.summary(nanodet_plus(416), [*table, row("int8+bf16", 8, 0.298, 0.002)])
    assert (said["precision"], said["speedup"], said["map_int8"]) == ("int8+bf16", 3.0, 0.298)
    assert (said["map_f32"], said["loss"], said["loss_high"]) == (0.3, 0.002, 0.012)
    assert said["size"] == [416, 256]


@pytest.mark.parametrize(
    ("speedup", "flags", "fast"),
    [
        (2.4, ["avx2", "avx512_vnni"], True),
        (2.2, ["avx2", "avx_vnni"], False),
        (2.6, ["avx512_vnni", "avx512_bf16"], False),
        (2.8, ["avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16"], True),
        # Without integer dot products the bar says nothing.
        (1.5, ["avx2"], None),
    ],
)
def test_the_bars_are_for_what_the_cpu_can(speedup, flags, fast):
    light = {"speedup": speedup, "weight_ratio": 0.252, "loss": 0.004, "loss_high": 0.011}
    assert quantization.reached(light, flags) == {
        "fast": fast,
        "small": True,
        "loss_is_small": True,
        "loss_is_bounded": True,
    }
    worse = light | {"loss": 0.007, "loss_high": 0.02, "weight_ratio": 0.27}
    assert set(list(quantization.reached(worse, flags).values())[1:]) == {False}
