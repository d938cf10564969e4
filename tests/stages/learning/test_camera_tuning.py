"""`framegate tune` on the demo's clip, with the light detector itself as teacher: it is quicker."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from framegate.cli.demo import shipped_clip
from framegate.cli.main import main
from framegate.models import coco
from framegate.models.learning import thresholds
from framegate.models.registry.open import open_model
from framegate.models.registry.registry import Registry
from framegate.pipeline.contracts.errors import ConfigFaults, Exit, SourceFault
from framegate.stages.decode.file import FileSource
from framegate.stages.learning.camera_tuning import TuneRequest, general, raw_detector, tune
from framegate.stages.learning.choices import ClassChoice
from framegate.stages.learning.teaching import KeptAnswers
from framegate.stages.model_adapters import picture_of
from tests.support import footage
from tests.support.own_models import own_cache, tuned_model
from tests.support.runs import environment

pytestmark = pytest.mark.whole_run

CLIP = str(shipped_clip())
# Twice the same street: one alone has too few pictures in which something moves.
STREETS = (f"monday={CLIP}", f"tuesday={CLIP}")


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With a teacher in it, and a cache of its own."""
    own_cache(tmp_path / "cache", monkeypatch)
    root = tmp_path / "registry"
    tuned_model(root, "seer", min_score=0.2)
    tuned_model(root, "street")
    return root


def test_from_footage_to_a_model(
    registry: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sheet = tmp_path / "seen.png"
    words = ["tune", "street", "--from", *STREETS, "--teacher", "seer", "--size", "416"]
    words += ["--registry", str(registry), "--sheet", str(sheet)]
    assert main(words) == Exit.USAGE  # no person confirmed a class
    assert "--classes is missing" in capsys.readouterr().err
    sheet.unlink()
    assert main([*words, "--classes", "car,person"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "added: street@2: by agreement with the teacher, F1 +" in printed
    assert "seen: car" in printed
    assert sheet.read_bytes().startswith(b"\x89PNG")
    folder = Registry(registry).find("street@2")
    manifest = folder.manifest
    assert "car" in manifest.min_scores
    assert "bicycle" not in manifest.min_scores
    assert manifest.min_score == min(manifest.min_scores.values())
    learned = manifest.learned
    assert learned is not None
    assert learned.confirmed == ("person", "car")
    assert "bicycle" in learned.struck
    assert [span.source for span in learned.spans] == ["monday", "tuesday"]
    assert all(0 <= span.from_s < span.until_s <= 0.6 * 40 for span in learned.spans)
    assert manifest.metrics["judged_frames"] >= 50
    assert manifest.metrics["decided_by"] == "teacher"
    assert manifest.metrics["difference_low"] > 0
    assert set(open_model(folder, "f32", 1).class_ids) <= {0, 2}
    # The classes stay confirmed for the next model of this name.
    assert main(words) == Exit.USAGE
    assert "--overwrite" in capsys.readouterr().err
    words.append("--overwrite")
    assert main(words) == 0
    assert "added: street@3" in capsys.readouterr().out
    # Labels by which the shipped detector is perfect, so that any other model is worse.
    labels = labels_of_the_shipped_detector(tmp_path / "labels.json", ("person", "car"))
    assert main([*words, "--labels", str(labels)]) == Exit.SOURCE_FAILED
    printed = " ".join(capsys.readouterr().out.split())
    assert "not added: by people's labels, it is worse than the shipped detector: F1 -" in printed
    assert "beside: by agreement with the teacher, F1 +" in printed
    assert {one.manifest.version for one in Registry(registry).models()} == {"1", "2", "3"}


def labels_of_the_shipped_detector(path: Path, classes: tuple[str, ...]) -> Path:
    """Write its boxes in 24 frames of the last third of monday as people's labels."""
    shipped, network = general(), raw_detector(general().side)
    ids = coco.class_ids(classes)
    images, boxes = [], []
    for number, frame in enumerate(FileSource(CLIP).frames()):
        if number not in range(340, 484, 6):
            continue
        picture = picture_of(frame)
        name = f"monday/frame_{number:06}.PNG"
        size = {"width": picture.width, "height": picture.height}
        images.append({"id": number, "file_name": name, **size})
        raw = network.detect([picture])[0]
        found = thresholds.shown(raw, dict.fromkeys(ids, shipped.min_score), shipped.nms_iou)
        for xyxy, class_id in zip(found.xyxy.tolist(), found.class_ids.tolist(), strict=True):
            box = [*xyxy[:2], xyxy[2] - xyxy[0], xyxy[3] - xyxy[1]]
            boxes.append({"image_id": number, "category_id": class_id, "bbox": box})
    assert len(images) == 24
    categories = [{"id": class_id, "name": coco.LABELS[class_id]} for class_id in ids]
    told = {"images": images, "annotations": boxes, "categories": categories}
    path.write_text(json.dumps(told), encoding="utf-8")
    return path


def test_names_of_no_class_are_refused_before_anything_is_looked_at(registry: Path) -> None:
    wishes = (("botle", "vase"), {"truk": "car"})
    request = TuneRequest("street", ("nowhere.mp4",), registry=registry, wishes=wishes)
    with pytest.raises(ConfigFaults) as refused:
        tune(request, lambda _: ClassChoice((), {}), lambda *_, **__: None)
    assert str(refused.value).splitlines() == [
        "--classes botle: no class of COCO; did you mean bottle?",
        "--merge truk: no class of COCO; did you mean truck?",
    ]


def test_who_stops_it_goes_on_from_there(registry: Path) -> None:
    request = TuneRequest("street", STREETS, side=416, teacher="seer", registry=registry)
    told: list[str] = []

    def stop(what: str, done: int = 0, _: int | None = None, more: str = "") -> None:
        told.append(more)
        if what.startswith("pictures") and done == 6:
            raise KeyboardInterrupt

    def all_of_them(seen):
        return ClassChoice(tuple(one.label for one in seen), {})

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            tune(request, all_of_them, stop)
    assert "6 known from before" in told


@pytest.mark.parametrize(
    ("name", "wish", "words"),
    [
        ("Yard", {}, "NAME = 'Yard'"),
        ("light", {}, "this name is reserved for a shipped model"),
        ("nanodet-plus-320", {}, "this name is reserved"),
        ("yard", {"teacher": "seen"}, "did you mean seer"),
        ("yard", {"frames": 100}, "143 are needed"),
        ("yard", {"sources": (CLIP, "rtsp://camera.example/a")}, "a camera"),
    ],
)
def test_what_is_wrong_is_told_before_minutes_of_work(registry: Path, name, wish, words) -> None:
    said = {"sources": STREETS, "side": 416, "teacher": "seer", "registry": registry, **wish}
    with pytest.raises(ConfigFaults) as caught:
        tune(TuneRequest(name, **said), lambda seen: pytest.fail(f"{seen}"), lambda *_, **__: None)
    assert words in str(caught.value)


def test_bad_footage_has_its_message(registry: Path, tmp_path: Path) -> None:
    def of(path: Path) -> TuneRequest:
        return TuneRequest("yard", (str(path),), side=416, teacher="seer", registry=registry)

    def nobody(seen: object) -> ClassChoice:
        pytest.fail(f"{seen}")

    empty, broken = tmp_path / "empty.mp4", tmp_path / "broken.mp4"
    empty.write_bytes(b"")
    broken.write_bytes(Path(CLIP).read_bytes()[:2000])
    for path in (empty, broken):
        with pytest.raises(SourceFault):
            tune(of(path), nobody, lambda *_, **__: None)
    one = footage.write_scene(tmp_path / "one.mkv", footage.steady(1))
    with pytest.raises(ConfigFaults, match=r"1 pictures .* 143 are needed"):
        tune(of(one), nobody, lambda *_, **__: None)
    greys = [np.full((48, 64), level, np.uint8) for level in (60, 180)]
    chroma = np.full((24, 32), 128, np.uint8)
    frames = [footage.frame_of((greys[n % 2], chroma, chroma), "yuv420p") for n in range(180)]
    bare = footage.write_frames(tmp_path / "bare.mkv", frames, footage.steady(180))
    with pytest.raises(ConfigFaults, match="there is no class of which"):
        tune(of(bare), nobody, lambda *_, **__: None)
    assert "yard" not in {one.manifest.name for one in Registry(registry).models()}


def test_answers_are_kept_by_content_and_a_damaged_file_knows_none(tmp_path: Path) -> None:
    file = tmp_path / "answers" / "a.msgpack"
    kept = KeptAnswers(file)
    assert kept.find(b"x") is None
    kept.keep(b"x", b"1")
    kept.close()
    assert KeptAnswers(file).find(b"x") == b"1"
    for n in range(9):
        other = KeptAnswers(file.with_name(f"{n}.msgpack"))
        other.keep(b"y", b"2")
        other.close()
    assert len(list(file.parent.iterdir())) == 8
    last = file.with_name("8.msgpack")
    last.write_bytes(b"\xff\xff")
    assert KeptAnswers(last).find(b"y") is None


_KEEP = """
import sys
from pathlib import Path
from framegate.stages.learning.teaching import KeptAnswers
from framegate.stages.model_adapters import picture_of

kept = KeptAnswers(Path(sys.argv[1]))
print("open", flush=True)
sys.stdin.read()
for n in range(200):
    kept.keep(f"{sys.argv[2]} {n}".encode(), b"1")
kept.close()
"""


def test_answers_of_processes_that_keep_them_at_the_same_time_are_all_kept(tmp_path: Path) -> None:
    file = tmp_path / "answers" / "a.msgpack"
    command, pipe = [sys.executable, "-c", _KEEP, str(file)], subprocess.PIPE
    with (
        subprocess.Popen([*command, "x"], stdin=pipe, stdout=pipe, env=environment()) as x,
        subprocess.Popen([*command, "y"], stdin=pipe, stdout=pipe, env=environment()) as y,
    ):
        for each in (x, y):
            assert each.stdout is not None
            assert each.stdout.readline() == b"open\n"
        for each in (x, y):
            assert each.stdin is not None
            each.stdin.close()
    assert (x.returncode, y.returncode) == (0, 0)
    kept = KeptAnswers(file)
    for name in ("x", "y"):
        assert [n for n in range(200) if kept.find(f"{name} {n}".encode()) is None] == []
