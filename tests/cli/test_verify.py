"""`framegate verify`: what it says of certificates, and of what was declared beside them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from msgspec import structs

from framegate.cli.accuracy.verify import _NEXT
from framegate.cli.main import main
from framegate.pipeline.contracts.results import Verdict
from framegate.pipeline.promise import audit_coin
from framegate.pipeline.promise.certificate import Declaration, declare
from framegate.pipeline.promise.period import Period, following
from tests.pipeline.promise.test_certificate import KEY, MOST, PROMISE, certificate_of


def written(folder: Path, name: str, said: Declaration) -> str:
    path = folder / name
    path.write_bytes(msgspec.json.encode(said))
    return str(path)


def test_the_command_says_what_holds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = written(tmp_path, "good.json", certificate_of())
    short = written(tmp_path, "short.json", certificate_of(frames=20))
    forged = written(tmp_path, "forged.json", structs.replace(certificate_of(), caught=9, k_max=9))
    assert main(["verify", good]) == 0
    assert capsys.readouterr().out == (
        f"{good}: period 1 of door: valid: of 200 frames, 1-0 to 1-199, at most 0.1 of the frames "
        "differ from the heavy model's, with confidence 0.95 "
        f"(0 of 78 audits found an error; {MOST} may)\n"
        "  without a declaration beside it, only its consistency is proved\n"
    )
    assert main(["verify", good, short]) == 1
    assert capsys.readouterr().out.splitlines()[2] == (
        f"{short}: period 1 of door: certifies nothing (unfinished): 20 of 200 frames were served"
    )
    assert main(["verify", short]) == 1
    assert "what to do: continue the run" in capsys.readouterr().out
    assert main(["verify", forged]) == 1
    head, *faults = capsys.readouterr().out.splitlines()
    assert head == f"{forged}: period 1 of door: WRONG"
    assert f"  k_max = 9: from the rest follows {MOST}" in faults


DECLARED = declare(following(Period(), PROMISE), PROMISE, KEY, "door")


def test_the_command_compares_with_what_was_declared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = written(tmp_path, "door-1.json", certificate_of())
    beside = written(tmp_path, "door-1.declared.json", DECLARED)
    later = written(tmp_path, "door-2.declared.json", structs.replace(DECLARED, period=2))
    assert main(["verify", good, beside, later]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == [
        "  terms and commitment are those of the declaration beside it",
        f"{later}: declared; the certificate is not written yet",
    ]
    assert main(["verify", later]) == 1


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("commitment", audit_coin.commitment(b"another")),
        ("alpha", 0.05),
        ("frames", 201),
        ("period", 2),
    ],
)
def test_what_was_chosen_after_the_period_is_found(
    field: str, value: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As of who tries keys until the coin likes them: consistent, but not what was declared."""
    good = written(tmp_path, "door-1.json", certificate_of())
    written(tmp_path, "door-1.declared.json", structs.replace(DECLARED, **{field: value}))
    assert main(["verify", good]) == 1
    head, fault = capsys.readouterr().out.splitlines()
    assert head == f"{good}: period 1 of door: WRONG"
    assert fault.startswith(f"  {field} = ")
    assert fault.endswith(f": declared was {value}")


def test_the_command_reads_standard_input(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = Path(written(tmp_path, "good.json", certificate_of()))
    with path.open(encoding="utf-8") as file:
        monkeypatch.setattr("sys.stdin", file)
        assert main(["verify", "-"]) == 0
    assert "at most 0.1 of the frames differ" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "No such file or directory"),
        (b"", "is not a certificate: Input data was truncated"),
        (b"\xff\xfe", "is not a certificate: "),
        (b"[1]", "is not a certificate: Expected `object`, got `array`"),
        (b'{"v": 1}', "is not a certificate: Object missing required field `source`"),
        (b'{"v": 2}', "is not a certificate: certificate of version 2"),
        (b" " * (1 << 20) + b"{}", "a certificate is smaller than 1048576 bytes"),
    ],
)
def test_what_is_no_certificate_is_told(
    content: bytes | None, said: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "cert.json"
    if content is not None:
        path.write_bytes(content)
    assert main(["verify", str(path)]) == 2
    printed = capfd.readouterr().err
    assert str(path) in printed
    assert said in printed


def test_no_other_command_waits_for_what_this_one_needs() -> None:
    code = "import framegate.cli.main, sys; sys.exit(bool({'numpy', 'scipy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_verdict_that_certifies_nothing_says_what_to_do() -> None:
    assert {*_NEXT} == {*get_args(Verdict)} - {"certified"}
