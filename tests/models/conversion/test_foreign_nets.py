"""Foreign detectors, exported and added: their boxes are those of the framework's own reading.

Each network has random weights; what it says on the same pixels is worked out twice, once by the
framework's post-processing and once from the model folder.
"""

from __future__ import annotations

import numpy as np
import openvino as ov
import pytest

torch = pytest.importorskip("torch", reason="foreign networks are made with torch")
pytest.importorskip("torchvision", reason="their own suppression is torchvision's")
pytest.importorskip("onnx", reason="torch exports ONNX by it")

from framegate.models.boxes import suppress  # noqa: E402
from framegate.models.conversion.add import AddRequest, add  # noqa: E402
from framegate.models.conversion.proof import Thresholds  # noqa: E402
from framegate.models.conversion.sandbox import SandboxLimits  # noqa: E402
from framegate.models.conversion.settle import Wishes  # noqa: E402
from framegate.models.errors import Undecided  # noqa: E402
from framegate.models.formats.table import FORMATS  # noqa: E402
from framegate.models.picture import from_bgr  # noqa: E402
from framegate.models.registry.model_folder import ModelFolder  # noqa: E402
from framegate.models.registry.open import fit  # noqa: E402
from framegate.models.registry.registry import Registry  # noqa: E402
from tests.support import foreign_nets as nets  # noqa: E402

LABELS = tuple(f"thing{i}" for i in range(nets.N_CLASSES))
MIN_SCORE, NMS_IOU = 0.3, 0.5


def picture(seed: int = 0, size: tuple[int, int] = (nets.WIDTH, nets.HEIGHT)):
    """Noise in blocks of 4 pixels: features of all kinds."""
    blocks = np.random.default_rng(seed).integers(0, 256, (size[1] // 4, size[0] // 4, 3))
    return from_bgr(blocks.repeat(4, 0).repeat(4, 1).astype(np.uint8))


@pytest.fixture
def added(tmp_path):
    """Adds a file; the model, and what was told."""

    def add_it(file, size=(nets.WIDTH, nets.HEIGHT), classes=LABELS, input_size=None, **wishes):
        told: list[str] = []
        wanted = AddRequest(
            file, "net", size=input_size, wishes=Wishes(classes=classes, **wishes),
            thresholds=Thresholds(MIN_SCORE, NMS_IOU, 300), limits=SandboxLimits(wall_s=200),
        )  # fmt: skip
        registry = Registry(tmp_path / "registry")
        folder, _ = add(wanted, registry, [picture(0, size), picture(1, size)], told.append)
        return folder, "\n".join(told)

    return add_it


def network_outputs(folder: ModelFolder, bgr) -> list[np.ndarray]:
    """What its network file gives, without the batch axis."""
    one = folder.manifest
    compiled = ov.Core().compile_model(
        folder.verified(), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    assert compiled.input(0).get_shape() == [1, one.input.height, one.input.width, 3]
    assert compiled.input(0).get_element_type() == ov.Type.u8
    request = compiled.create_infer_request()
    request.infer([bgr[None]])
    outputs = [request.get_tensor(name).data[0] for name in one.outputs]
    assert {out.dtype for out in outputs} == {np.dtype(np.float32)}
    return outputs


def read(folder: ModelFolder, bgr) -> list[list[float]]:
    """What the model folder says about an input: class, score and box of each, best first."""
    one, outputs = folder.manifest, network_outputs(folder, bgr)
    form, size = FORMATS[one.format], (one.input.width, one.input.height)
    found = form.decode(outputs, size, len(one.classes), one.min_score, one.options)
    if one.format in ("yolo", "yolo_objectness", "yolox", "ssd_deltas", "nanodet_joined"):
        found = found.take(suppress(found.xyxy, found.scores, one.nms_iou))
    return np.column_stack([found.class_ids, found.scores, found.xyxy]).tolist()


def seen(folder: ModelFolder, seed: int = 0, size=(nets.WIDTH, nets.HEIGHT)):
    """A picture as the network file takes it, and as the original network takes it (1, 3, H, W)."""
    spec = folder.manifest.input
    bgr = fit(picture(seed, size), spec).bgr
    channels = bgr[..., ::-1] if spec.colour == "rgb" else bgr
    x = torch.from_numpy(channels.astype(np.float32)).permute(2, 0, 1)[None] * spec.scale
    mean, std = (torch.tensor(one).view(1, 3, 1, 1) for one in (spec.mean, spec.std))
    return bgr, (x - mean) / std


def assert_same(got, wanted):
    """Each box of one is one of the other; scores fall. Equal scores may stand in any order."""
    assert len(wanted) > 3, "the network finds too little to compare"
    scores = [row[1] for row in got]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] - scores[-1] > 0.03, "scores do not spread"
    assert len(got) == len(wanted)
    ours, theirs = np.array(got), np.array(wanted)
    same = np.isclose(ours[:, None], theirs[None], rtol=2e-4, atol=4e-3).all(axis=2)
    assert same.any(axis=1).all(), ours[~same.any(axis=1)]
    assert same.any(axis=0).all(), theirs[~same.any(axis=0)]


def seeded(make):
    torch.manual_seed(3)
    return make().eval()


def test_yolo_v8(added, tmp_path):
    net = seeded(nets.YoloV8)
    names = {"names": str(dict(enumerate(LABELS))), "stride": "32", "imgsz": "[64, 96]"}
    file = nets.to_onnx(net, tmp_path / "yard.onnx", ["output0"], metadata=names)
    folder, told = added(file, classes=None)
    assert folder.manifest.classes == LABELS
    assert "format: yolo;" in told
    assert "letterbox on grey 114, rgb, levels / 255: usual for YOLO v8 to v12" in told
    for seed in (0, 1):
        bgr, x = seen(folder, seed)
        wanted = nets.yolo_answer(net(x)[0].T.detach(), MIN_SCORE, NMS_IOU)
        assert_same(read(folder, bgr), wanted)


def test_yolo_v5_with_a_size_that_is_open(added, tmp_path):
    net = seeded(nets.YoloV5)
    axes = {"images": {0: "batch"}}
    file = nets.to_onnx(net, tmp_path / "v5.onnx", ["output"], dynamic_axes=axes)
    folder, told = added(file)
    assert "format: yolo_objectness;" in told
    assert "3 boxes per cell of strides 8, 16, 32" in told
    bgr, x = seen(folder)
    assert_same(read(folder, bgr), nets.yolov5_answer(net(x)[0].detach(), MIN_SCORE, NMS_IOU))


def test_yolox_is_not_told_from_a_finished_one(added, tmp_path):
    net = seeded(nets.YoloX)
    file = nets.to_onnx(net, tmp_path / "x.onnx", ["output"])
    with pytest.raises(
        Undecided, match=r"may be of several formats; choose with --format"
    ) as asked:
        added(file)
    assert [one.split()[0] for one in asked.value.answers] == ["yolo_objectness", "yolox"]
    folder, told = added(file, format="yolox")
    assert "96x64, corner on grey 114, bgr: usual for YOLOX" in told
    bgr, x = seen(folder)
    assert_same(read(folder, bgr), nets.yolox_answer(net, net(x)[0].detach(), MIN_SCORE, NMS_IOU))


def test_end_to_end(added, tmp_path):
    net = seeded(nets.EndToEnd)
    folder, told = added(nets.to_onnx(net, tmp_path / "v10.onnx", ["output0"]))
    assert "format: yolo_end_to_end;" in told
    bgr, x = seen(folder)
    out = net(x)[0].detach()
    out = out[out[:, 4] > MIN_SCORE]
    assert_same(read(folder, bgr), nets.rows(out[:, :4], out[:, 4], out[:, 5]))


@pytest.mark.parametrize(("spare", "name"), [(1, "detr_softmax"), (0, "detr_sigmoid")])
def test_detr(added, tmp_path, spare, name):
    net = seeded(lambda: nets.Detr(spare))
    file = nets.to_onnx(net, tmp_path / "detr.onnx", ["logits", "pred_boxes"])
    folder, told = added(file)
    assert f"format: {name};" in told
    bgr, x = seen(folder)
    logits, boxes = (out[0].detach() for out in net(x))
    wanted = nets.detr_answer(logits, boxes, MIN_SCORE, spare)
    assert_same(read(folder, bgr), wanted)


def test_torchvision_ssd_raw_heads(added, tmp_path):
    from torchvision.models.detection import ssdlite320_mobilenet_v3_large
    from torchvision.models.detection.image_list import ImageList

    torch.manual_seed(0)
    ssd = ssdlite320_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=nets.N_CLASSES + 1,
        score_thresh=MIN_SCORE, nms_thresh=1.0, topk_candidates=10_000, detections_per_img=10_000,
    ).eval()  # fmt: skip
    nets.wake(ssd)

    class Raw(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.ssd = ssd

        def forward(self, x):
            out = self.ssd.head(list(self.ssd.backbone(x).values()))
            return out["bbox_regression"], out["cls_logits"]

    file = nets.to_onnx(Raw(), tmp_path / "ssd.onnx", ["boxes", "logits"], (1, 3, 320, 320))
    folder, told = added(file, size=(320, 320))
    assert "format: ssd_deltas;" in told
    assert "default boxes of torchvision's SSD" in told
    assert "usual for torchvision's SSDlite" in told
    bgr, x = seen(folder, size=(320, 320))
    with torch.no_grad():
        features = list(ssd.backbone(x).values())
        anchors = ssd.anchor_generator(ImageList(x, [(320, 320)]), features)
        (out,) = ssd.postprocess_detections(ssd.head(features), anchors, [(320, 320)])
    kept = nets.nms(out["boxes"], out["scores"], NMS_IOU)  # its own would be by class
    wanted = nets.rows(out["boxes"][kept], out["scores"][kept], out["labels"][kept] - 1)
    assert_same(read(folder, bgr), wanted)


@pytest.mark.long
def test_torchvision_boxes_scores_labels(added, tmp_path):
    from torchvision.models.detection import fcos_resnet50_fpn

    torch.manual_seed(0)
    net = fcos_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=nets.N_CLASSES + 1,
        min_size=nets.HEIGHT, max_size=nets.WIDTH, score_thresh=0.2,
    ).eval()  # fmt: skip
    for weight in net.head.classification_head.cls_logits.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    file = nets.to_onnx(net, tmp_path / "fcos.onnx", ["boxes", "scores", "labels"])
    with pytest.raises(Undecided, match="how they count; choose with --class-numbers"):
        added(file)
    folder, told = added(file, options={"class_numbers": [1, 2, 3, 4, 5]})
    assert "format: boxes_labels; boxes 'boxes', scores 'scores', labels 'labels'" in told
    bgr, x = seen(folder)
    with torch.no_grad():
        (out,) = net(x)
    keep = (out["scores"] > MIN_SCORE) & (out["labels"] > 0)
    wanted = nets.rows(out["boxes"][keep], out["scores"][keep], out["labels"][keep] - 1)
    assert_same(read(folder, bgr), wanted)


@pytest.mark.long
def test_torchscript_and_export_give_the_same_as_onnx(added, tmp_path):
    net = seeded(nets.YoloV8)
    example = torch.zeros(1, 3, nets.HEIGHT, nets.WIDTH)
    torch.jit.trace(net, example).save(tmp_path / "net.pt")
    torch.export.save(torch.export.export(net, (example,)), tmp_path / "net.pt2")
    with pytest.raises(Undecided, match="leaves the size of its input open; choose with --size"):
        added(tmp_path / "net.pt")
    folder, told = added(tmp_path / "net.pt2")
    assert "read: export" in told
    bgr, x = seen(folder)
    assert_same(read(folder, bgr), nets.yolo_answer(net(x)[0].T.detach(), MIN_SCORE, NMS_IOU))
