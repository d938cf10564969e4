"""`framegate fleet` with slots that have measured their cameras."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import pytest

from framegate.cli.main import main
from framegate.pipeline.fleet.fleet_store import FleetStore, SlotSign
from tests.support.servers import server

TOML = """
[slots.a]
[sources.gate]
url_env = "GATE_URL"
cost = 0.5
[sources.yard]
url_env = "YARD_URL"
"""


def test_apply_and_diff_use_what_the_slot_of_a_source_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fleet.toml").write_text(TOML, encoding="utf-8")
    with server(tmp_path / "server") as store, closing(FleetStore(store.url)) as fleet:

        def prints(*words: str) -> str:
            assert main(["fleet", *words, "--store", store.url]) == 0
            return capsys.readouterr().out

        prints("apply", "fleet.toml")
        lines = prints("status").splitlines()
        assert lines[1].split() == ["slot", "state", "load", "measured", "cores", "sources", "host"]
        assert lines[2].split() == ["a", "away", "0.7", "-", "2.0", "0/2"]
        fleet.sign("a", SlotSign("run-a", "box", 1, 2, costs={"gate": 0.9, "yard": 0.41}))
        fleet.sign("b", SlotSign("run-b", "box", 1, 2, costs={"yard": 1.9}))
        change = "source yard: its cost changes from 0.18 to 0.41 (measured)\n"
        assert prints("diff", "fleet.toml") == change
        assert prints("apply", "fleet.toml") == f"{change}version 2 of the plan is written\n"
        assert prints("status").splitlines()[2].split()[:5] == ["a", "serving", "0.9", "1.3", "2.0"]
        status = json.loads(prints("status", "--json"))
        assert status["slots"][0]["costs"] == {"gate": 0.9, "yard": 0.41}
        fleet.sign_off("a", "run-a")
        assert prints("apply", "fleet.toml") == "nothing to change; the plan stays at version 2\n"
