"""What this process may use of its machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from framegate.pipeline.system import machine


@pytest.mark.parametrize(
    ("cpu_max", "cores"),
    [
        ("max 100000\n", None),
        ("200000 100000\n", 2),
        ("150000 100000\n", 2),  # Kubernetes: 1500m
        ("50000 100000\n", 1),  # half a core is one that waits at times
        ("400000 50000\n", 8),
    ],
)
def test_a_limit_of_cpu_time_is_a_number_of_cores(cpu_max: str, cores: int | None) -> None:
    assert machine.cores_of_limit(cpu_max) == cores


@pytest.mark.parametrize(
    ("limit", "use"),
    [
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ],
)
def test_what_a_container_uses_is_not_available(
    limit: str, use: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "_GROUP", tmp_path)
    host, _ = machine.memory()
    (tmp_path / "memory").mkdir()
    (tmp_path / use).write_text("60000000\n", encoding="utf-8")
    status = "anon 1\ninactive_file 9000000\nactive_file 1000000\ninactive_anon 7\n"
    (tmp_path / use).with_name("memory.stat").write_text(status, encoding="utf-8")
    (tmp_path / limit).write_text("64000000\n", encoding="utf-8")
    assert machine.memory() == (64_000_000, 14_000_000)
    (tmp_path / limit).write_text("max\n", encoding="utf-8")
    assert machine.memory()[0] == host


def test_a_container_has_the_cores_of_its_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = tmp_path / "cpu.max"
    monkeypatch.setattr(machine, "_CPU_LIMIT", limit)
    allowed = machine.cores()
    limit.write_text("100000 100000\n", encoding="utf-8")
    assert machine.cores() == 1
    limit.write_text("max 100000\n", encoding="utf-8")
    assert machine.cores() == allowed
    limit.write_text("99900000 100000\n", encoding="utf-8")
    assert machine.cores() == allowed, "never more than the process may run on"
