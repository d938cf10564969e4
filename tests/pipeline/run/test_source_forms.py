"""The identity of a slot's file: what its successor must have, too."""

from __future__ import annotations

from pathlib import Path

import pytest

from framegate.pipeline.fleet.plan import FleetSource
from framegate.pipeline.run.slot import source_of


def identity(**keys: str) -> str:
    return source_of("gate", FleetSource(keys, 0.5, "a", 1)).identity


def test_the_identity_of_a_file_changes_with_its_content_and_its_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(b"first")
    monkeypatch.setenv("CLIP", str(clip))
    before = identity(url=str(clip), pace="realtime")
    assert before == identity(pace="realtime", url=str(clip)) != ""
    by_variable = identity(url_env="CLIP")
    assert by_variable == identity(url_env="CLIP") != ""
    changed_keys = identity(url=str(clip), pace="realtime", frames="every=2")
    assert changed_keys != before
    clip.write_bytes(b"other")
    assert identity(url=str(clip), pace="realtime") != before
    assert identity(url_env="CLIP") != by_variable


def test_the_identity_of_a_file_behind_a_url_is_its_place_without_the_login(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def at(url: str) -> str:
        monkeypatch.setenv("CLIP", url)
        return identity(url_env="CLIP")

    assert at("https://me:old@host/clip.mp4?n=1") == at("https://me:new@host/clip.mp4?n=1") != ""
    assert at("https://host/clip.mp4?n=1") != at("https://host/clip.mp4?n=2")


def test_a_camera_has_no_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATE", "rtsp://camera/1")
    assert identity(url_env="GATE") == identity(url="rtsp://camera/2") == ""
