"""Detect with the real light network on pictures of a street: objects, tracks, kept state."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from msgspec import structs

from framegate.models import coco
from framegate.models.picture import as_picture
from framegate.pipeline.contracts import records
from framegate.pipeline.contracts.errors import FrameLost
from framegate.pipeline.contracts.records import End, Position, Record
from framegate.pipeline.contracts.source import Form
from framegate.pipeline.contracts.spec import StageSpec
from framegate.pipeline.contracts.stage import Context, Item
from framegate.pipeline.engine.context_alone import context_alone
from framegate.pipeline.engine.hosted_stage import HostedStage
from framegate.pipeline.engine.inbox import Arrival
from framegate.pipeline.engine.stage_commit import PendingCommit
from framegate.pipeline.recording.changed_parts import changes_of_region
from framegate.pipeline.store.hop import Attached
from framegate.stages.detect import Detect
from framegate.stages.detect.memory import DetectState
from framegate.stages.detect.options import CacheOptions, DetectOptions, GateOptions, Mode
from framegate.stages.detections import Detections

DEMO = Path(__file__).parents[3] / "framegate" / "cli" / "demo.mp4"
FORM = Form(320, 180)
LEAST = 0.05


@cache
def street() -> np.ndarray:
    """A frame of the demo clip, in which two cars wait behind a fence."""
    with av.open(str(DEMO)) as clip:
        frame = next(itertools.islice(clip.decode(video=0), 20, None))
        return cv2.resize(frame.to_ndarray(format="bgr24"), (FORM.width, FORM.height))


def shifted(number: int) -> bytes:
    """Planar YUV of the street, shifted, so that each number has the cars in another place."""
    bgr = np.roll(street(), 37 * number, axis=1)
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2YUV_I420).tobytes()


@contextmanager
def pixels(item: Item) -> Iterator[memoryview]:
    """The picture's number is the record's; a negative one is lost."""
    if item.record.number < 0:
        raise FrameLost("gone")
    yield memoryview(shifted(item.record.number)).toreadonly()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run")


def detect(folder: Path, mode: Mode = "crops", **options: object) -> Detect:
    """The stage, with each frame computed for itself: it looks up no answers."""
    cache = CacheOptions(exact=False)
    given = {"min_score": LEAST, "gate": GateOptions(mode=mode), "cache": cache, **options}
    return Detect(DetectOptions(**given), context_alone(pixels, lambda: 0.0, folder, "decode"))  # type: ignore[arg-type]


@pytest.fixture(scope="module", params=["off", "crops"])
def stage(request: pytest.FixtureRequest, folder: Path) -> Detect:
    return detect(folder, request.param)


def item(epoch: int, seq: int, picture: int, source: str = "a", pts: float | None = None) -> Item:
    pts = seq / 25 if pts is None else pts
    record = Record(v=1, pts=pts, captured=0.0, arrived=0.0, number=picture, form=FORM)
    return Item(source, Position(epoch, seq), record)


def stored(states: dict[str, DetectState]) -> dict[str, DetectState]:
    """States as the next worker finds them."""
    return {s: records.decode(records.encode(v), DetectState) for s, v in states.items()}


def answers(stage: Detect, *items: Item) -> tuple[list[Detections], dict[str, DetectState]]:
    """One record at a time, with the state through the store each time."""
    said = []
    states = {i.source: DetectState() for i in items}
    for each in items:
        [answer], after = stage.process([each], states)
        states |= stored(after)
        said.append(answer)
    return said, states


def tracks(said: Detections) -> list[int]:
    return [o.track for o in said.objects if o.track is not None]


def test_an_answer_is_in_source_pixels_and_says_how_it_came_about(stage: Detect) -> None:
    [said], _ = answers(stage, item(1, 0, picture=1))
    assert said.objects
    for found in said.objects:
        x1, y1, x2, y2 = found.box
        assert -1 <= x1 < x2 <= FORM.width + 1
        assert -1 <= y1 < y2 <= FORM.height + 1
        assert LEAST <= found.score <= 1.0
        assert found.label == coco.LABELS[found.class_id]
        assert found.origin == "detected"
    reason = "every_frame" if stage.options.gate.mode == "off" else "first"
    assert (said.outcome, said.looked, said.reason) == ("detected", "whole", reason)
    assert said.models == stage.models.of("cam").detector.models
    assert "@" in said.models[0]


def test_only_with_a_gate_and_the_usual_scores_is_a_score_sure(folder: Path) -> None:
    masks = {"a": [[[0, 0], [9, 0], [9, 9]]]}
    gates = {
        "usual": GateOptions(mode="crops"),
        "off": GateOptions(mode="off"),
        "masked": GateOptions(mode="crops", masks=masks),
    }
    labels, sure = {}, {}
    for name, gate in gates.items():
        [said], _ = answers(detect(folder, gate=gate, min_score=None), item(1, 0, picture=1))
        labels[name], sure[name] = {each.label for each in said.objects}, said.sure
    assert set(sure["usual"]) >= labels["usual"] == labels["masked"]
    assert min(sure["usual"].values()) > 0.4
    assert sure["off"] == sure["masked"] == {}  # in a mask nothing changes, so nothing is judged
    [said], _ = answers(detect(folder, min_score=LEAST), item(1, 0, picture=1))
    assert said.objects
    assert set(said.sure.values()) == {0.0}


def test_batch_and_company_change_nothing(stage: Detect) -> None:
    """Law 6: neither chunking nor other sources change boxes, labels, scores or tracks."""
    mine = [item(1, n, picture=1 + n // 4) for n in range(8)]
    others = [item(1, n, picture=9 - n, source="b") for n in range(8)]
    alone, _ = answers(stage, *mine)
    mixed = [each for pair in zip(mine, others, strict=True) for each in pair]
    together, _ = stage.process(mixed, {"a": DetectState(), "b": DetectState()})
    assert together[::2] == alone


def test_tracks_go_on_over_frames_and_a_restart(stage: Detect) -> None:
    said, _ = answers(stage, *[item(1, n, picture=1) for n in range(6)])
    assert tracks(said[-1])
    assert tracks(said[-1]) == tracks(said[-2])


def test_ids_go_on_counting_in_a_new_epoch(stage: Detect) -> None:
    """No track spans a break of continuity, and no id comes twice."""
    first = [item(1, n, picture=1) for n in range(6)]
    second = [item(2, n, picture=1) for n in range(6)]
    said, states = answers(stage, *first, *second)
    before = {track for each in said[:6] for track in tracks(each)}
    after = {track for each in said[6:] for track in tracks(each)}
    assert before
    assert after
    assert max(before) < min(after)
    assert states["a"].epoch == 2


def test_sources_have_ids_of_their_own(stage: Detect) -> None:
    both = [item(1, n, picture=1, source=s) for n in range(6) for s in ("a", "b")]
    said, _ = answers(stage, *both)
    assert said[-1] == said[-2]


def test_state_is_small(stage: Detect) -> None:
    """What a hop stores is at most 2 KB a frame on average."""
    _, states = answers(stage, *[item(1, n, picture=1 + n // 3) for n in range(12)])
    assert len(records.encode(states["a"])) < 12 * 2048


def test_classes(folder: Path, stage: Detect) -> None:
    [everything], _ = answers(stage, item(1, 0, picture=1))
    wanted = everything.objects[0].label
    [said], _ = answers(detect(folder, classes=(wanted,)), item(1, 0, picture=1))
    assert {found.label for found in said.objects} == {wanted}
    assert next(o.box for o in everything.objects if o.label == wanted) in [
        o.box for o in said.objects
    ]


def test_what_does_not_change_is_carried(folder: Path) -> None:
    """Law 7: each result says whether it was looked at and how old its evidence is."""
    stage = detect(folder)
    said, _ = answers(stage, *[item(1, n, picture=1) for n in range(14)])
    still = [each for each in said if each.looked == "no"]
    assert len(still) > 10
    assert {(each.outcome, each.reason) for each in still} == {("carried", "unchanged")}
    assert {o.origin for each in still for o in each.objects} == {"carried"}
    assert still[-1].objects
    assert still[-1].age_s == pytest.approx(13 / 25)


def test_objects_and_frames_have_a_maximum_age(folder: Path) -> None:
    """Law 8, at one frame in two seconds: whatever is carried was seen within the limits."""
    stage = detect(folder, gate=GateOptions(object_age_s=1.0, still_age_s=1.0, frame_age_s=3.0))
    said, _ = answers(stage, *[item(1, n * 12, picture=1) for n in range(30)])
    assert "no" in {each.looked for each in said}
    assert max(each.age_s for each in said) < 3.0
    seen = 0.0
    for n, each in enumerate(said):
        if each.looked != "no":
            seen = n * 12 / 25
        tracked = [o for o in each.objects if o.track is not None]
        assert not tracked or n * 12 / 25 - seen < 1.0


def test_what_the_gate_remembers_may_be_lost(folder: Path) -> None:
    """A host that restarts has no shared memory left: one look at the whole frame, tracks go on."""
    first = detect(folder)
    said, states = answers(first, *[item(1, n, picture=1) for n in range(6)])
    [again], _ = detect(folder).process([item(1, 6, picture=1)], states)
    assert (again.looked, again.reason) == ("whole", "reanchored")
    assert tracks(again) == tracks(said[-1])


def test_the_memory_of_another_version_is_lost_and_not_misread(folder: Path) -> None:
    """Its bytes lie in the data folder, laid out in another way, under the key of that way."""
    context = context_alone(pixels, lambda: 0.0, folder, "decode")
    options = DetectOptions(min_score=LEAST, cache=CacheOptions(exact=False))
    said, states = answers(Detect(options, context), *[item(1, n, picture=1) for n in range(6)])
    older = records.decode(records.encode(states["a"]), dict)
    older["memory3"] = older.pop("memory4")
    upgraded = {"a": records.decode(records.encode(older), DetectState)}
    for known, reason in ((states, "unchanged"), (upgraded, "reanchored")):
        [again], _ = Detect(options, context).process([item(1, 6, picture=1)], known)
        assert again.reason == reason
        assert tracks(again) == tracks(said[-1])


def test_a_batch_redone_one_by_one_leaves_its_successor_what_the_store_names(folder: Path) -> None:
    """Law 6: the worker dies before the store took anything of such a batch. Its successor finds
    the memory of the frame before, and says what an undisturbed worker says.
    """

    @contextmanager
    def held(each: Item) -> Iterator[memoryview]:
        if each.position.seq == 8:
            raise ValueError("no stage can do this one")
        with pixels(each) as view:
            yield view

    alone, shared = (context_alone(held, lambda: 0.0, folder, "decode") for _ in range(2))
    options = DetectOptions(min_score=LEAST, cache=CacheOptions(exact=False))
    spec = StageSpec("detect", "framegate.stages.detect:Detect", "decode", True, True, False)
    frames = [item(1, n, picture=1 + n // 4) for n in range(10)]

    def worker(state: bytes | None, at: Position, context: Context = shared) -> HostedStage:
        hosted = HostedStage(spec, Detect(options, context), 0, {})
        hosted.attach("a", Attached(b"1", at, state, at))
        return hosted

    def hop(hosted: HostedStage, items: list[Item]) -> PendingCommit:
        arrivals = [Arrival(each.position, each.record) for each in items]
        return hosted.answer({"a": arrivals}, lambda *_: False)["a"]

    def served(hosted: HostedStage, first: int) -> list[bytes]:
        said: list[bytes] = []
        while first + len(said) < len(frames):
            move = hop(hosted, frames[first + len(said) :])
            hosted.accept("a", move)
            said += [entry.data for entry in move.commit.entries]
        return said

    undisturbed = worker(None, Position(0, 0), alone)
    hosted = worker(None, Position(0, 0))
    for one in (undisturbed, hosted):
        first = hop(one, frames[:6])
        one.accept("a", first)
    state = dict(first.commit.fields)["s"]
    wanted = served(undisturbed, 6)
    assert hop(hosted, frames[6:]).commit.last > Position(1, 5)  # and the store never hears of it
    said = served(worker(state, Position(1, 5)), 6)
    assert [_told(data) for data in said] == [_told(data) for data in wanted]
    assert [reason for reason, _ in map(_told, said)].count("reanchored") == 0


def _told(data: bytes) -> tuple[str | None, bytes]:
    """Why detect looked, or why nobody did, and all that it said of a frame."""
    record = records.decode_record(data)
    if record.failed is not None:
        return record.failed, b""
    said = record.said["detect"]
    return records.decode(said, Detections).reason, bytes(said)


def test_a_source_that_ended_leaves_nothing_in_the_worker(stage: Detect) -> None:
    _, states = answers(stage, item(1, 0, 1, "gone"), item(1, 1, 2, "gone"))
    assert "gone" in stage._keeper._live
    end = End(v=1, frames=2, last=True)
    assert stage.end("gone", end, states["gone"]) == (None, states["gone"])
    assert "gone" not in stage._keeper._live


def test_thresholds_of_zero_are_no_gate(folder: Path) -> None:
    """Every tile fires on every frame: the same boxes, scores and tracks as with mode off."""
    open_gate = GateOptions(least=0.0, most=0.0, wait_frames=0)
    frames = [item(1, n, picture=1 + n // 4) for n in range(12)]
    said, _ = answers(detect(folder, gate=open_gate), *frames)
    without, _ = answers(detect(folder, "off"), *frames)
    assert [each.objects for each in said] == [each.objects for each in without]
    assert {each.looked for each in said} == {"whole"}


def test_a_new_picture_size_costs_its_neighbours_no_more_than_the_look(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A camera may have another size with each picture; whatever is warmed up, all wait for."""
    stage = detect(folder)
    answers(stage, item(1, 0, 1))
    network = stage.models.of("a").detector.members[0].network
    passes = []
    run = network.submit
    monkeypatch.setattr(network, "submit", lambda *given: (passes.append(given), run(*given))[1])
    tall = structs.replace(item(2, 0, 2).record, form=Form(FORM.height, FORM.width))
    said, _ = answers(stage, Item("b", Position(1, 0), tall))
    assert said[0].looked == "whole"
    assert len(passes) == 1


def test_lost_pixels_are_for_the_runner(stage: Detect) -> None:
    with pytest.raises(FrameLost):
        stage.process([item(1, 0, 1), item(1, 1, -1)], {"a": DetectState()})


def test_a_run_decides_once(folder: Path, stage: Detect) -> None:
    """A worker that takes over computes with the same precision and threads."""
    assert (folder / "precision.json").exists()
    again = detect(folder, stage.options.gate.mode)
    assert again.models.of("cam").detector.models == stage.models.of("cam").detector.models
    [one], _ = answers(stage, item(1, 0, picture=2))
    [two], _ = answers(again, item(1, 0, picture=2))
    assert one == two


@pytest.mark.parametrize("form", [Form(4, 2), Form(5, 3), Form(1, 1)])
def test_planes_of_odd_sizes(form: Form) -> None:
    data = bytes(range(form.nbytes))
    picture = as_picture(memoryview(data), form)
    rows, columns = (form.height + 1) // 2, (form.width + 1) // 2
    assert picture.y.shape == (form.height, form.width)
    assert picture.u.shape == picture.v.shape == (rows, columns)
    assert b"".join(plane.tobytes() for plane in (picture.y, picture.u, picture.v)) == data


def test_changed_parts_of_compared_frames_are_stored(tmp_path: Path) -> None:
    """The first frame of an epoch is compared with nothing; frame 3 has the cars elsewhere."""
    stage = detect(tmp_path)
    items = [item(1, n, picture=1 + n // 3) for n in range(6)]
    dated = [
        each._replace(record=structs.replace(each.record, captured=100.0 + each.position.seq))
        for each in items
    ]
    answers(stage, *dated)
    stage.close()
    changes = changes_of_region(tmp_path, "a", (0.0, 0.0, 1.0, 1.0))
    assert changes.frames == 5
    assert changes.periods[0].first == "1-3"
