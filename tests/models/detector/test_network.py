"""The compiled network: what it refuses, and that answers do not mix."""

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from framegate.models.detector import network as manifest
from framegate.models.detector.network import Network, core, nearest, shipped, supported
from framegate.models.errors import (
    ArrayMismatch,
    ModelUnreadable,
    PrecisionUnsupported,
    TooManyInFlight,
    WarmUpFailed,
)
from tests.support.runs import DEADLINE_S

CELLS = ("cells",)


@pytest.fixture(scope="module")
def network() -> Network:
    return Network(shipped("nanodet-plus", "f32"), CELLS, "f32", 1, max_in_flight=3)


def picture(seed: int, height: int = 64, width: int = 96) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def copies(outputs):
    return [array.copy() for array in outputs]


def test_shapes_follow_the_input(network):
    shapes = network.read(network.submit(picture(0)), lambda out: [a.shape for a in out])
    assert shapes == [(8 * 12 + 4 * 6 + 2 * 3 + 1 * 2, 112)]


def test_answers_do_not_depend_on_what_else_is_under_way(network):
    alone = [network.read(network.submit(picture(i)), copies) for i in range(3)]
    tokens = [network.submit(picture(i)) for i in range(3)]
    together = [network.read(token, copies) for token in reversed(tokens)][::-1]
    for a, b in zip(alone, together, strict=True):
        assert all((x == y).all() for x, y in zip(a, b, strict=True))


def test_a_fixed_size_gives_the_same_answers_within_rounding():
    network = Network(shipped("nanodet-plus", "f32"), CELLS, "f32", 1)
    before = network.read(network.submit(picture(0)), copies)
    fixed = [network.read(network.submit(picture(0), fixed=True), copies) for _ in range(2)]
    for a, b, c in zip(before, *fixed, strict=True):
        assert np.abs(a - b).max() < 1e-4
        assert (b == c).all()


def test_what_sizes_others_have_changes_no_answer():
    """A part that has the shape of another source's whole picture is no whole picture."""
    network = Network(shipped("nanodet-plus", "f32"), CELLS, "f32", 1, most_fixed=1)
    part = network.read(network.submit(picture(0)), copies)
    whole = network.read(network.submit(picture(0), fixed=True), copies)
    under_way = network.submit(picture(0), fixed=True)
    for size in ((32, 64), (64, 64), (96, 64)):  # each takes the place of the one before
        network.read(network.submit(picture(1, *size), fixed=True), lambda _: None)
    again = network.read(under_way, copies)
    for fixed, wanted in ((False, part), (True, whole)):
        found = network.read(network.submit(picture(0), fixed), copies)
        assert all((a == b).all() for a, b in zip(found, wanted, strict=True))
    assert all((a == b).all() for a, b in zip(again, whole, strict=True))


def test_what_is_expected_is_compiled_once_and_asked_for_at_any_moment(network):
    sizes = [(32, 64), (64, 64), (96, 64), (64, 32)]
    ahead = Network(shipped("nanodet-plus", "f32"), CELLS, "f32", 1, most_fixed=3)
    ahead.expect(sizes)
    ahead.expect([(128, 128)])  # others are under way: it is compiled when it is met
    for width, height in [*sizes[::-1], (128, 128)]:
        shown = picture(2, height, width)
        wanted = network.read(network.submit(shown, fixed=True), copies)
        found = ahead.read(ahead.submit(shown, fixed=True), copies)
        assert all((a == b).all() for a, b in zip(found, wanted, strict=True))


def test_a_closed_network_compiles_only_what_is_asked_for(monkeypatch):
    compile_model = core().compile_model
    shapes: list[object] = []
    has_begun, may_end = threading.Event(), threading.Event()

    def slow_compile_model(model, *options):
        shapes.append(list(model.input().shape))
        has_begun.set()
        assert may_end.wait(DEADLINE_S)
        return compile_model(model, *options)

    monkeypatch.setattr(core(), "compile_model", slow_compile_model)
    ahead = Network(shipped("nanodet-plus", "f32"), CELLS, "f32", 1)
    ahead.expect([(32, 64), (64, 64), (96, 64)])
    assert has_begun.wait(DEADLINE_S)
    ahead.close()
    may_end.set()
    ahead.warm_up([(32, 64)], fixed=True)
    assert shapes == [[1, 64, 32, 3]]
    ahead.warm_up([(96, 64)], fixed=True)
    assert shapes == [[1, 64, 32, 3], [1, 64, 96, 3]]


def test_one_thread_at_a_time_compiles_with_a_cache(monkeypatch, tmp_path):
    """Two at once would leave the process in the locale C, where text is ASCII."""
    compile_model = core().compile_model
    are_two = threading.Barrier(2)

    def compile_beside_another(model, *options):
        try:
            are_two.wait(0.5)
        except threading.BrokenBarrierError:
            return compile_model(model, *options)
        raise AssertionError("two threads compile")

    monkeypatch.setattr(core(), "compile_model", compile_beside_another)
    folders = [tmp_path / "a", tmp_path / "b"]  # not kept apart by the lock of one folder
    networks = [
        Network(shipped("nanodet-plus", "f32"), CELLS, "f32", 1, folder) for folder in folders
    ]
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(lambda each: each.warm_up([(32, 32)]), networks))


def test_a_network_that_another_thread_compiles_is_waited_for(monkeypatch):
    """A thread whose answer is overdue may still compile when the next one asks."""
    compile_model = core().compile_model
    has_begun, may_end = threading.Event(), threading.Event()
    compiled: list[object] = []

    def slow_compile_model(model, *options):
        compiled.append(model)
        has_begun.set()
        assert may_end.wait(DEADLINE_S)
        return compile_model(model, *options)

    monkeypatch.setattr(core(), "compile_model", slow_compile_model)
    slow = Network(shipped("nanodet-plus", "f32"), CELLS, "f32", 1)
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(slow.warm_up, [(96, 64)])
        assert has_begun.wait(DEADLINE_S)
        second = threads.submit(slow.submit, picture(0))
        slow.close()
        may_end.set()
        first.result(DEADLINE_S)
        second.result(DEADLINE_S)
    assert len(compiled) == 1


def test_too_many_in_flight(network):
    tokens = [network.submit(picture(i)) for i in range(3)]
    with pytest.raises(TooManyInFlight) as caught:
        network.submit(picture(3))
    assert caught.value.limit == 3
    for token in tokens:
        network.read(token, lambda _: None)
    network.read(network.submit(picture(3)), lambda _: None)


def test_a_reader_that_fails_gives_the_place_back(network):
    for _ in range(5):
        with pytest.raises(ZeroDivisionError):
            network.read(network.submit(picture(0)), lambda _: 1 // 0)


def test_a_token_is_read_once(network):
    token = network.submit(picture(0))
    network.read(token, lambda _: None)
    with pytest.raises(KeyError):
        network.read(token, lambda _: None)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((33, 64, 3), np.uint8),
        np.zeros((64, 48, 3), np.uint8),
        np.zeros((0, 64, 3), np.uint8),
        np.zeros((64, 64), np.uint8),
        np.zeros((64, 64, 3), np.float32),
    ],
)
def test_inputs_of_other_shapes_are_refused(network, array):
    with pytest.raises(ArrayMismatch, match="bgr"):
        network.submit(array)


def test_warm_up_runs_or_fails(network):
    network.warm_up([(96, 64), (32, 32)])
    network.warm_up([(32, 64)], fixed=True)
    with pytest.raises(WarmUpFailed) as caught:
        network.warm_up([(100, 64)])
    assert (caught.value.model, caught.value.shape) == ("nanodet-plus", (64, 100, 3))


def test_unknown_precision():
    with pytest.raises(PrecisionUnsupported) as caught:
        Network(shipped("nanodet-plus", "f32"), CELLS, "fp4", 1)  # type: ignore[arg-type]
    assert caught.value.supported == supported()


def test_nearest_precision(monkeypatch):
    assert nearest("f32") == "f32"
    monkeypatch.setattr("framegate.models.detector.network.supported", lambda: ("f32", "int8"))
    assert nearest("bf16") == "f32"
    assert nearest("int8+bf16") == "int8"
    with pytest.raises(PrecisionUnsupported):
        nearest("fp4")


def test_every_weight_file_is_listed_and_whole():
    listed = manifest.read()
    kinds = {".xml", ".bin"}
    present = {path.name for path in manifest.WEIGHTS.iterdir() if path.suffix in kinds}
    assert present == set(listed)
    for entry in listed.values():
        assert (manifest.WEIGHTS / entry.file).stat().st_size == entry.bytes
        assert (Path(__file__).parents[3] / entry.script).is_file()
    for name in ("nanodet-plus", "nanodet-plus-int8", "surveillance-int8"):
        path, sha256 = manifest.verified(name)
        assert (path.name, len(sha256)) == (f"{name}.xml", 64)
    assert sum(entry.bytes for entry in listed.values()) < 45e6


@pytest.fixture
def copied(tmp_path) -> Path:
    for name in ("manifest.toml", "nanodet-plus.xml", "nanodet-plus.bin"):
        shutil.copy(manifest.WEIGHTS / name, tmp_path)
    return tmp_path


def test_a_changed_file_is_refused(copied):
    data = bytearray((copied / "nanodet-plus.bin").read_bytes())
    data[1000] ^= 1
    (copied / "nanodet-plus.bin").write_bytes(data)
    with pytest.raises(ModelUnreadable) as caught:
        manifest.verified("nanodet-plus", copied)
    assert caught.value.path == copied / "nanodet-plus.bin"
    assert caught.value.expected == f"sha256 {manifest.read()['nanodet-plus.bin'].sha256}"
    assert len(caught.value.actual) == 64


def test_a_missing_file_is_refused(copied):
    (copied / "nanodet-plus.xml").unlink()
    with pytest.raises(ModelUnreadable, match=r"nanodet-plus\.xml"):
        manifest.verified("nanodet-plus", copied)
    with pytest.raises(ModelUnreadable, match="a line in"):
        manifest.verified("resnet", copied)


@pytest.mark.parametrize("text", ["", "files = 3", "[[files]]\nfile = 'x'", "{"])
def test_a_broken_manifest_is_refused(tmp_path, text):
    (tmp_path / "manifest.toml").write_text(text, encoding="utf-8")
    with pytest.raises(ModelUnreadable, match=r"manifest\.toml"):
        manifest.read(tmp_path)


def test_a_cached_compilation_gives_the_same_bits(tmp_path):
    first = Network(shipped("nanodet-plus", "int8"), CELLS, "int8", 1, cache_dir=tmp_path)
    a = first.read(first.submit(picture(0)), copies)
    assert list(tmp_path.iterdir())
    second = Network(shipped("nanodet-plus", "int8"), CELLS, "int8", 1, cache_dir=tmp_path)
    b = second.read(second.submit(picture(0)), copies)
    assert all((x == y).all() for x, y in zip(a, b, strict=True))
