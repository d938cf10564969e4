"""Manifests: what comes back is what was written, and what is wrong is told."""

import dataclasses
import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from framegate.models.errors import ManifestRefused, ModelUnreadable
from framegate.models.registry.manifest import FootageSpan, InputSpec, Learned, Manifest
from framegate.models.registry.model_folder import open_folder
from tests.support.made_models import folder_of, manifest

LABELS = st.lists(
    st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=20),
    min_size=1, max_size=20, unique=True,
).map(tuple)  # fmt: skip
PLAIN = st.dictionaries(
    st.text(max_size=5),
    st.recursive(
        st.integers(-(10**9), 10**9) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner, max_size=3),
        max_leaves=5,
    ),
    max_size=3,
)


@given(classes=LABELS, options=PLAIN, min_score=st.floats(0.001, 0.99), fill=st.integers(0, 255))
def test_text_and_back(classes, options, min_score, fill):
    spec = InputSpec(640, 384, "corner", fill, "bgr", 1 / 255, (0.1, 0.2, 0.3), (1, 2, 3))
    one = manifest(classes=classes, options=options, min_score=min_score, input=spec)
    again = Manifest.from_json(one.to_json())
    assert again == one
    assert again.sha256 == one.sha256


def test_the_digest_is_of_everything():
    one = manifest()
    assert manifest(metrics={"mAP": 0.3}).sha256 != one.sha256
    assert manifest(nms_iou=1).sha256 == manifest(nms_iou=1.0).sha256
    assert manifest(files={**one.files, "model.bin": "2" * 64}).sha256 != one.sha256


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("name", "Yard", "name = 'Yard'"),
        ("name", "a/b", "name = 'a/b'"),
        ("version", "../1", "version = '../1'"),
        ("task", "segment", "allowed is detect"),
        ("classes", (), "0 names"),
        ("classes", ("a", "a"), "'a' twice"),
        ("classes", tuple(map(str, range(257))), "257 names"),
        ("classes", ("a\n",), "printable"),
        ("precision", "f16", "f32 or int8"),
        ("format", "Yolo!", "format"),
        ("options", {"x": None}, "options.x = None"),
        ("options", {"x": {"y": 1}}, "options.x"),
        ("metrics", {"x": float("nan")}, "metrics.x = nan"),
        ("outputs", (), "outputs"),
        ("min_score", 0, "min_score = 0"),
        ("min_score", True, "min_score = True"),
        ("nms_iou", 1.5, "nms_iou = 1.5"),
        ("max_boxes", 0, "from 1 to 1000"),
        ("files", {"model.xml": "0" * 64}, "files.model.bin = missing"),
        ("files", {"../model.xml": "0" * 64}, "inside the folder"),
        ("files", {"/etc/passwd": "0" * 64}, "inside the folder"),
        ("files", {"a\\b": "0" * 64}, "inside the folder"),
        ("files", {"..": "0" * 64}, "inside the folder"),
        ("files", {"manifest.json": "0" * 64}, "not manifest.json"),
        ("files", {"model.xml": "0" * 63}, "files.model.xml"),
    ],
)
def test_what_no_model_can_have(key, value, words):
    with pytest.raises(ManifestRefused, match="manifest: ") as caught:
        manifest(**{key: value})
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [("width", 0), ("height", 5000), ("fit", "crop"), ("fill", 256), ("colour", "grey"),
     ("scale", 0), ("scale", float("inf")), ("mean", (1, 2)), ("std", (1, 0, 1))],
)  # fmt: skip
def test_an_input_that_cannot_be(key, value):
    with pytest.raises(ManifestRefused, match=f"input.{key}"):
        InputSpec(**{"width": 64, "height": 64, key: value})


def test_unknown_and_missing_keys_are_told():
    table = dataclasses.asdict(manifest())
    with pytest.raises(ManifestRefused, match="manifest: colour = unknown key"):
        Manifest.from_json(json.dumps({**table, "colour": 1}))
    with pytest.raises(ManifestRefused, match=r"manifest: input\.gamma = unknown key"):
        Manifest.from_json(json.dumps({**table, "input": {**table["input"], "gamma": 1}}))
    del table["licence"]
    with pytest.raises(ManifestRefused, match="manifest: licence = missing"):
        Manifest.from_json(json.dumps(table))
    for text in ("", "[]", "[" * 100_000, '{"a": NaN}'):
        with pytest.raises(ManifestRefused):
            Manifest.from_json(text)


def test_a_manifest_says_its_version_and_that_changes_no_digest():
    one = manifest()
    written = json.loads(one.to_json())
    assert written["v"] == 1
    assert Manifest.from_json(one.to_json()) == one
    del written["v"]  # of 0.1
    old = Manifest.from_json(json.dumps(written))
    assert old.sha256 == one.sha256
    with pytest.raises(ManifestRefused, match="v = 2: allowed is 1: a newer Framegate"):
        Manifest.from_json(json.dumps({"v": 2, "shape": "another"}))


def test_every_byte_is_checked(tmp_path):
    folder = folder_of(tmp_path / "a")
    assert folder.verified() == tmp_path / "a" / "model.xml"
    expected = folder.manifest.files["model.bin"]
    (folder.path / "model.bin").write_text("network model.bim", encoding="utf-8")
    with pytest.raises(ModelUnreadable, match=rf"model\.bin: expected sha256 {expected}, found"):
        folder.verified()
    (folder.path / "model.bin").unlink()
    with pytest.raises(ModelUnreadable, match="No such file"):
        folder.verified()
    (folder.path / "model.bin").symlink_to(folder.path / "model.xml")
    with pytest.raises(ModelUnreadable, match="no regular file"):
        folder.verified()


def test_a_folder_without_a_manifest(tmp_path):
    with pytest.raises(ModelUnreadable, match="expected a manifest"):
        open_folder(tmp_path)


def test_optional_keys_without_a_value_are_no_part_of_the_digest():
    one = manifest()
    written = json.loads(one.to_json())
    assert not {"merged", "min_scores", "learned"} & set(written)
    del written["v"]
    text = json.dumps(written, sort_keys=True, separators=(",", ":"))
    assert one.sha256 == hashlib.sha256(text.encode()).hexdigest()
    assert one.default_classes == one.published == ("person", "car")


def test_what_a_tuned_model_says_comes_back():
    learned = Learned("nanodet-plus-416@12345678", "heavy", 40, 90, (FootageSpan("yard", 0, 12.5),))
    one = manifest(
        classes=("person", "car", "truck"),
        merged={"truck": "car"},
        min_scores={"car": 0.4},
        learned=learned,
    )
    again = Manifest.from_json(one.to_json())
    assert again == one
    assert again.sha256 == one.sha256
    assert again.published == ("person", "car")
    assert again.default_classes == ("car",)
    assert again.learned == learned
    assert manifest(learned=learned).sha256 != manifest().sha256
    assert not {"struck", "merged"} & set(json.loads(one.to_json())["learned"])


def test_what_was_struck_and_merged_comes_back():
    chosen = {"struck": ("dog", "cell phone"), "merged": {"truck": "car"}}
    learned = Learned("light", "heavy", 40, 90, (FootageSpan("yard", 0, 12.5),), **chosen)
    one = manifest(learned=learned)
    assert Manifest.from_json(one.to_json()) == one
    assert one.sha256 != manifest(learned=dataclasses.replace(learned, struck=("dog",))).sha256
    assert one.published_as == {"truck": "car"}
    with pytest.raises(ManifestRefused, match=r"learned\.merged\.truck.*'dog'"):
        manifest(learned=dataclasses.replace(learned, merged={"truck": "dog"}))
    with pytest.raises(ManifestRefused, match=r"learned\.struck.*twice"):
        manifest(learned=dataclasses.replace(learned, struck=("dog", "dog")))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"min_scores": {"dog": 0.5}}, "min_scores.dog"),
        ({"min_scores": {"car": 1.0}}, "min_scores.car = 1.0"),
        ({"min_scores": {"car": 0.5}, "merged": {"car": "person"}}, "min_scores.car"),
        ({"merged": {"car": "dog"}}, "merged.car = 'dog'"),
        ({"merged": {"car": "person", "person": "car"}}, "merged.car"),
        ({"merged": {"dog": "car"}}, "merged.dog"),
    ],
)
def test_what_no_tuned_model_can_have(changes, words):
    with pytest.raises(ManifestRefused) as caught:
        manifest(**changes)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"frames": -1}, "learned.frames = -1"),
        ({"spans": {}}, "learned.spans"),
        ({"spans": [{"source": "a", "from_s": 0}]}, "learned.spans.until_s = missing"),
        ({"spans": [{"source": "a", "from_s": 0, "until_s": 1}] * 2}, "each source once"),
        ({"more": 1}, "learned.more"),
        ({"merged": None}, "learned.merged = None"),
        ({"confirmed": None}, "learned.confirmed = None"),
        ({"struck": 0}, "learned.struck = 0"),
    ],
)
def test_what_nobody_learned(table, words):
    written = json.loads(manifest().to_json())
    told = {"general": "light", "teacher": "heavy", "frames": 1, "boxes": 2, "spans": []}
    with pytest.raises(ManifestRefused) as caught:
        Manifest.from_json(json.dumps({**written, "learned": told | table}))
    assert words in str(caught.value)
