"""Which formats fit which outputs; and that several are asked for, with the flag that decides."""

import pytest

from framegate.models import coco
from framegate.models.conversion.guess import Port, candidates, cells, guess_input
from framegate.models.conversion.settle import Wishes, classes_in, settle
from framegate.models.errors import ModelRefused, Undecided

SIZE = (640, 640)
CELLS = cells(SIZE, (8, 16, 32))  # 8400


def ports(*shapes, names=(), integers=()):
    return [
        Port(names[i] if names else f"output{i}", shape, i in integers)
        for i, shape in enumerate(shapes)
    ]


def guessed(*shapes, n_classes=80, size=SIZE, **more):
    return {one.format: one for one in candidates(ports(*shapes, **more), size, n_classes)}


@pytest.mark.parametrize(
    ("shapes", "formats"),
    [
        ([(1, 84, CELLS)], ["yolo"]),
        ([(1, CELLS, 84)], ["yolo"]),
        ([(None, 84, None)], ["yolo"]),
        ([(1, 3 * CELLS, 85)], ["yolo_objectness"]),
        ([(1, 300, 6)], ["yolo_end_to_end"]),
        ([(None, None, 6)], ["yolo_end_to_end"]),
        ([(1, 300, 84)], ["detr_joined"]),
        ([(1, 100, 81), (1, 100, 4)], ["detr_softmax"]),
        ([(1, 100, 4), (1, 100, 81)], ["detr_softmax"]),
        ([(1, 1, 200, 7)], ["ssd_rows"]),
        ([(None, 7)], ["yolo_end_to_end"]),
        ([(1, 8732, 4), (1, 8732, 81)], ["ssd_deltas"]),
        ([(1, 80, 160, 160), (1, 4, 160, 160)], []),
        ([(1, 124, 80, 80), (1, 124, 40, 40), (1, 124, 20, 20)], []),
        ([(1, 8500, 80), (1, 8500, 5)], []),
        ([(1, cells(SIZE, (8, 16, 32, 64)), 112)], ["nanodet_joined"]),
        ([(1, 10)], []),
    ],
)
def test_one_reading(shapes, formats):
    assert list(guessed(*shapes)) == formats


@pytest.mark.parametrize(
    ("shapes", "formats"),
    [
        # YOLOX gives cells, v6 finished boxes, in the same shape.
        ([(1, CELLS, 85)], ["yolo_objectness", "yolox"]),
        ([(1, 100, 4), (1, 100, 80)], ["boxes_scores", "detr_sigmoid"]),
        # A DetectionOutput without a batch axis, or rows of YOLO v7 with one.
        ([(1, 200, 7)], ["ssd_rows", "yolo_end_to_end"]),
        ([(1, 5000, 4), (1, 5000, 80)], ["boxes_scores"]),
    ],
)
def test_several_readings(shapes, formats):
    assert sorted(guessed(*shapes)) == formats


def test_names_decide():
    two = [(1, 100, 80), (1, 100, 4)]
    assert list(guessed(*two, names=("logits", "pred_boxes"))) == ["detr_sigmoid"]
    assert list(guessed(*two, names=("scores", "boxes"))) == ["boxes_scores"]
    three = [(1, 80, 128, 128), (1, 2, 128, 128), (1, 2, 128, 128)]
    assert guessed(*three, names=("hm", "reg", "wh"))["centernet_usual"].ports == (0, 2, 1)
    assert len(candidates(ports(*three), SIZE, 80)) == 2
    rows = [(None, 4), (None,), (None,)]
    assert guessed(*rows, integers=(1,))["boxes_labels"].ports == (0, 2, 1)
    assert len(candidates(ports(*rows), SIZE, 80)) == 2
    # Beside them some exporters give how many there are.
    four = [(1, 1), (1, 100, 4), (1, 100), (1, 100)]
    assert guessed(*four, integers=(0, 3))["boxes_labels"].ports == (1, 2, 3)


def test_without_the_number_of_classes():
    assert guessed((1, 84, CELLS), n_classes=None)["yolo"].n_classes == 80
    both = guessed((1, 100, 92), (1, 100, 4), n_classes=None)
    assert {name: one.n_classes for name, one in both.items()} == {
        "detr_softmax": 91, "detr_sigmoid": 92, "boxes_scores": 92,
    }  # fmt: skip


def test_cocos_own_numbers():
    for shapes, name in (
        ([(1, 100, 92), (1, 100, 4)], "detr_softmax"),
        ([(1, 100, 91), (1, 100, 4)], "detr_sigmoid"),
        ([(1, 8732, 4), (1, 8732, 91)], "ssd_deltas"),
    ):
        found = guessed(*shapes)[name]
        assert found.options["class_numbers"] == list(coco.CATEGORY_IDS)


def test_torchvisions_two_ssds():
    ssd300 = guessed((1, 8732, 4), (1, 8732, 81), size=(300, 300))["ssd_deltas"]
    assert ssd300.options["steps"] == [8, 16, 32, 64, 100, 300]
    lite = guessed((1, 3234, 4), (1, 3234, 81), size=(320, 320))["ssd_deltas"]
    assert lite.options["max_ratio"] == 0.95


def settled(*shapes, metadata=None, size=SIZE, names=(), integers=(), **wishes):
    said = Wishes(**{"classes": coco.LABELS, **wishes})
    return settle("net", ports(*shapes, names=names, integers=integers), size, metadata or {}, said)


def test_what_is_taken_is_told():
    one = settled((1, 84, CELLS))
    assert one.options == {"layout": "columns"}
    assert one.reasons == (
        "format: yolo; [84, 8400]: 4 numbers of a box and 80 class scores, a column per box",
        "input: 640x640, letterbox on grey 114, rgb, levels / 255: usual for YOLO v8 to v12",
    )
    one = settled((1, 84, CELLS), input={"colour": "bgr", "scale": 1.0})
    assert one.reasons[1].endswith("bgr: usual for YOLO v8 to v12; as given: colour, scale")


def test_classes_of_the_metadata():
    names = "{0: 'cat', 1: \"dog's\"}"
    one = settled((1, 6, CELLS), classes=None, metadata={"names": names})
    assert one.classes == ("cat", "dog's")
    assert one.reasons[0] == "classes: 2, as the file's metadata name them"
    for nonsense in ("", "{", "7", "__import__('os')", "[" * 5000, "{[1]: 'a'}"):
        assert classes_in({"names": nonsense}) is None


@pytest.mark.parametrize(
    ("shapes", "wishes", "words"),
    [
        ([(1, 84, CELLS)], {"classes": None}, r"its 80 classes; choose with --classes"),
        ([(1, CELLS, 85)], {}, r"(?s)with --format\n  yolo_obj.*\n  yolox"),
        ([(1, 300, 4), (1, 300), (1, 300)], {}, r"output of net is which\?; .*--outputs"),
        ([(1, 5000, 4), (1, 5000, 81)], {}, r"default boxes; choose with --option KEY=JSON"),
    ],
)  # fmt: skip
def test_what_is_asked(shapes, wishes, words):
    with pytest.raises(Undecided, match=words):
        settled(*shapes, **wishes)


def test_answers_decide():
    assert settled((1, CELLS, 85), format="yolox").format == "yolox"
    rows = [(1, 300), (1, 300, 4), (1, 300)]
    one = settled(
        *rows, outputs=("output1", "output2", "output0"), options={"class_numbers": [*range(80)]}
    )
    assert (one.format, one.ports) == ("boxes_labels", (1, 2, 0))
    boxes = {"aspect_ratios": [[2]], "grids": [[50, 50]], "scales": [0.1, 0.2]}
    assert settled((1, 5000, 4), (1, 5000, 81), options=boxes).options == boxes
    # --format overrides a guess that only the shapes contradict.
    assert settled((1, 3 * CELLS, 84), format="yolo").reasons[0].endswith("only --format names it")


@pytest.mark.parametrize(
    ("shapes", "wishes", "words"),
    [
        (
            [(1, 84, CELLS)],
            {"classes": ("a", "b")},
            r"2 classes do not fit .* 80 \(yolo\)",
        ),
        ([(1, 84, CELLS)], {"format": "boxes_labels"}, "do not fit boxes_labels"),
        (
            [(1, 84, CELLS)],
            {"outputs": ("boxes",)},
            "--outputs: it has no output boxes, but output0",
        ),
        (
            [(1, 84, CELLS)],
            {"options": {"steps": [8]}},
            "--option steps: unknown; options of yolo: layout",
        ),
        ([(1, 300, 6)], {"options": {"class_numbers": [1]}}, "1 class numbers for 80 classes"),
        ([None], {}, r"outputs output0 \[\.\.\.\] fit no known format"),
    ],
)
def test_answers_that_do_not_fit(shapes, wishes, words):
    with pytest.raises(ModelRefused, match=words):
        settled(*shapes, **wishes)


def test_the_usual_input_and_what_is_said_of_it():
    spec, _ = guess_input("ssd_deltas", (320, 320), {})
    assert (spec.fit, spec.mean) == ("stretch", (0.5, 0.5, 0.5))
    spec, _ = guess_input("yolox", (416, 416), {"mean": (1.0, 2.0, 3.0)})
    assert (spec.fit, spec.colour, spec.scale, spec.mean) == ("corner", "bgr", 1, (1, 2, 3))
