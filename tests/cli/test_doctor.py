"""The doctor says what is missing, and how to get it."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest

from framegate.cli import doctor
from framegate.cli.doctor import GIB, MIB, Finding
from framegate.pipeline.config.config import find_config, read_config
from framegate.pipeline.system import machine
from tests.support.commands import Ended, framegate, user_folder

ROOT = Path(__file__).resolve().parents[2]


def looked_at(tmp_path: Path, *words: str, more: str = "") -> Ended:
    return framegate(user_folder(tmp_path / "user", more=more), "doctor", *words)


def test_on_this_machine_nothing_is_missing(tmp_path: Path) -> None:
    ended = looked_at(tmp_path, "--json")
    findings = {found["name"]: found for found in json.loads(ended.out)}
    failed = {name for name, found in findings.items() if found["level"] == "FAIL"}
    assert failed <= {"shared memory", "disk"}, "the only ones that a test cannot give itself"
    assert ended.code == bool(failed)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    count = int(re.fullmatch(r"all (\d+) import", findings["packages"]["found"]).group(1))  # type: ignore[union-attr]
    assert count >= len(project["dependencies"]), "also what was added since"
    assert "nanodet" in findings["models"]["found"]
    assert list((tmp_path / "user").glob("**/valkey.sock")) == []


def test_a_person_reads_a_line_each(tmp_path: Path) -> None:
    ended = looked_at(tmp_path)
    heads = [line.split()[0] for line in ended.out.splitlines()]
    assert set(heads) <= {"OK", "WARN", "FAIL", "->"}
    assert heads.count("->") == sum(head in ("WARN", "FAIL") for head in heads)


def test_what_is_missing_is_a_fault_with_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "requires", lambda _: ["no-such-package>=1"])
    config = read_config(*find_config(None))
    assert doctor.doctor(config, tmp_path, as_json=True) == 1
    found = {each["name"]: each for each in json.loads(capsys.readouterr().out)}["packages"]
    assert found["level"] == "FAIL"
    assert found["found"] == "no-such-package: not installed"
    assert "make base" in found["remedy"]


@pytest.mark.parametrize(
    ("found", "level", "remedy"),
    [
        (doctor.python((3, 10)), "FAIL", "3.11, 3.12 or 3.13"),
        (doctor.python((3, 13)), "OK", ""),
        (doctor.memory(2 * GIB, MIB), "WARN", "memory limit"),
        (doctor.shared_memory(64 * MIB, 100 * MIB), "FAIL", "docker run --shm-size=125m"),
        (doctor.shared_memory(64 * MIB, 64 * MIB), "OK", ""),
        (doctor.open_files(200, 16), "FAIL", "ulimit -n 256"),
        (doctor.disk(100 * MIB, Path("/data")), "FAIL", "store.results_age_s"),
        (doctor.disk(GIB, Path("/data")), "WARN", "-d"),
        (doctor.packages(["xxhash>=3.5", "opencv-python-headless>=4.11"]), "OK", ""),
        (doctor.packages(["xxhash>=999"]), "FAIL", "make base"),
        (doctor.packages(["av<19,>=18", "xxhash<3"]), "FAIL", "make base"),
        (doctor.clock(False), "WARN", "NTP"),
        (doctor.webcams({"/dev/video0": False}), "WARN", "group video"),
        (doctor.webcams({"/dev/video0": True}), "OK", ""),
    ],
)
def test_a_judgement(found: Finding, level: str, remedy: str) -> None:
    assert found.level == level
    assert remedy in found.remedy
    assert bool(found.remedy) == (level != "OK")


def test_a_package_of_another_version_than_is_wanted_is_named() -> None:
    found = doctor.packages(["xxhash>=3.5", "msgspec<0.1", "numpy>=2.1,<2.1.0.1"]).found
    one, other = found.split("; ")
    assert re.fullmatch(r"msgspec: [\d.]+ is installed, <0\.1 is needed", one)
    assert re.fullmatch(r"numpy: [\d.]+ is installed, >=2\.1,<2\.1\.0\.1 is needed", other)


def test_shared_memory_is_that_of_the_sources() -> None:
    origin, text = find_config(None)
    sources = {"gate": {"url": "rtsp://cam/1"}, "clip": {"url": "a.mp4"}}
    both = doctor.needed(read_config(origin, text, {"sources": sources}))
    picture = 1920 * 1080 * 3 // 2
    assert 38 * picture <= both <= 42 * picture, "4 and 32 of credit, and one each for HTTP"


def test_vector_units_are_read_from_what_the_kernel_says() -> None:
    intel = "flags\t\t: fpu avx2 avx512f avx512_vnni amx_tile\nflags\t\t: fpu"
    assert machine.vector_units(intel) == ["AVX2", "AVX-512", "VNNI", "AMX"]
    assert machine.vector_units("Features\t: fp asimd") == ["NEON"]
    assert machine.vector_units("") == []


def test_runs_that_pile_up_are_told(tmp_path: Path) -> None:
    assert doctor.earlier_runs([1 << 20] * 3, tmp_path).level == "OK"
    for sizes in ([1 << 30] * 2, [2 << 30]):
        found = doctor.earlier_runs(sizes, tmp_path)
        assert (found.level, str(tmp_path) in found.remedy) == ("WARN", True)
