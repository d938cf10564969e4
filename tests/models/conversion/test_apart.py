"""What ends the process that reads a file, and what a file's framing says, whatever its bytes."""

import contextlib
import signal
import struct
import zipfile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from framegate.models.conversion.file_kind import checked_members, kind_of, scan
from framegate.models.conversion.sandbox import SandboxLimits, ask, why_ended
from framegate.models.errors import ModelRefused
from tests.support import tiny_onnx

LIMITS = SandboxLimits(memory_bytes=1 << 30, cpu_s=7)
settings.register_profile("files", suppress_health_check=[HealthCheck.function_scoped_fixture])
on_files = settings(settings.get_profile("files"), deadline=None)


@pytest.mark.parametrize(
    ("code", "told", "words"),
    [
        (-signal.SIGSEGV, "", "the program that reads it crashed (SIGSEGV)"),
        (-signal.SIGABRT, "terminate called\n what(): std::bad_alloc", "more than 1024 MiB of mem"),
        (1, "Traceback\nMemoryError", "reading it needs more than 1024 MiB of memory"),
        (-signal.SIGXCPU, "", "reading it needs more than 7 s of CPU time"),
        (-signal.SIGKILL, "", "reading it needs more memory than this machine has"),
        (3, "one\nlast word", "the program that reads it ended with code 3: last word"),
        (0, "", "the program that reads it ended with code 0: no message"),
    ],
)
def test_why_it_ended(code, told, words):
    assert words in why_ended(code, told, LIMITS)


def test_its_folder_and_environment_are_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("CAMERA_PASSWORD", "secret")
    file = tmp_path / "net.onnx"
    file.write_bytes(tiny_onnx.detector())
    work = tmp_path / "work"
    work.mkdir()
    (work / "mmap.py").write_text("raise SystemExit('not mine')", encoding="utf-8")
    (work / "openvino.py").write_text("raise SystemExit('not mine')", encoding="utf-8")
    assert ask("kind", {"file": str(file)}, work, file, SandboxLimits())["kind"] == "onnx"
    assert "secret" not in "".join(path.read_text(encoding="utf-8") for path in work.iterdir())


@given(data=st.binary(max_size=300))
@on_files
def test_any_bytes_are_a_kind_or_refused(tmp_path, data):
    for name in ("a.onnx", "a.safetensors", "a.pt2", "a.xml", "a.pt"):
        (tmp_path / name).write_bytes(data)
        with contextlib.suppress(ModelRefused):
            kind_of(tmp_path / name)


@given(at=st.integers(0, len(tiny_onnx.detector()) - 1), byte=st.integers(0, 255))
@on_files
def test_a_changed_byte_of_onnx_is_read_or_refused(tmp_path, at, byte):
    data = bytearray(tiny_onnx.detector())
    data[at] = byte
    (tmp_path / "a.onnx").write_bytes(data)
    with contextlib.suppress(ModelRefused):
        assert scan(tmp_path / "a.onnx").has_graph


def test_the_facts_of_an_onnx_file(tmp_path):
    (tmp_path / "a.onnx").write_bytes(tiny_onnx.detector(opset=17, external="w.bin"))
    facts = scan(tmp_path / "a.onnx")
    assert (facts.opsets, facts.external) == ({"": 17}, {"w.bin"})


def test_graphs_in_graphs_end(tmp_path):
    data = b""
    for _ in range(100):  # graph > node > attribute > graph
        inner = tiny_onnx.part(6, data) if data else b""
        data = tiny_onnx.part(1, tiny_onnx.part(5, inner))
    (tmp_path / "a.onnx").write_bytes(tiny_onnx.part(7, data))
    with pytest.raises(ModelRefused, match="nested more than 32 deep"):
        scan(tmp_path / "a.onnx")


def test_zips(tmp_path):
    file = tmp_path / "a.pt"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a/b", b"0" * 1000)
        archive.writestr("a/c", b"1" * 1000)
    assert [one.filename for one in checked_members(file)] == ["a/b", "a/c"]
    data = file.read_bytes()
    file.write_bytes(data[:-30])
    with pytest.raises(ModelRefused, match="damaged or truncated zip"):
        checked_members(file)
    # The second entry of the directory points at the bytes of the first.
    second = data.rindex(b"PK\x01\x02")
    file.write_bytes(data[: second + 42] + struct.pack("<I", 0) + data[second + 46 :])
    with pytest.raises(ModelRefused, match="its members overlap"):
        checked_members(file)


def test_a_zip_that_is_not_there_is_not_called_damaged(tmp_path):
    with pytest.raises(ModelRefused, match="cannot be read: No such file"):
        checked_members(tmp_path / "gone.pt")
