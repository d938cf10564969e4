"""Which sources a resumed run goes on with: files strictly, cameras by the configuration."""

from __future__ import annotations

import os
import shlex
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from framegate.pipeline.contracts.errors import DataFolderRefused
from framegate.pipeline.run.folder import By, RunFile, RunSource, fingerprint, resumed

FOLDER = Path("data")


def camera(name: str, by: By = "config", past: int = 0, url: str = "") -> RunSource:
    return RunSource(url or f"rtsp://{name}/1", name=name, past=past, live=True, by=by)


def file(name: str, url: str = "/a.mp4") -> RunSource:
    return RunSource(url, name=name)


def run(*sources: RunSource) -> RunFile:
    return RunFile("run-1", "store-1", sources, stays=True)


def test_the_configuration_is_followed_for_cameras() -> None:
    known = run(camera("stays", past=7), camera("gone"), camera("said", by="command"),
                camera("added", by="add"))  # fmt: skip
    found = resumed(known, [camera("stays", url="rtsp://moved/2"), camera("new")], FOLDER)
    assert found.run.sources == (
        camera("stays", past=7, url="rtsp://moved/2"),
        camera("said", by="command"),
        camera("added", by="add"),
    )
    assert found.new == (camera("new"),)
    assert (found.run.run, found.run.stays) == ("run-1", True)


def test_a_camera_keeps_the_model_that_was_chosen_for_it() -> None:
    chosen = replace(camera("door", past=3), model="mine@1", before="")
    [door] = resumed(run(chosen), [camera("door")], FOLDER).run.sources
    assert (door.model, door.before) == ("mine@1", "")


def test_one_that_was_being_removed_still_is() -> None:
    ending = RunSource("rtsp://door/1", name="door", past=3, live=True, by="add", ending=True)
    assert resumed(run(ending), [camera("door")], FOLDER).run.sources == (ending,)


@pytest.mark.parametrize("asked", [file("b"), file("a", "/other.mp4"), file("eye")])
def test_no_other_file_is_taken(asked: RunSource) -> None:
    with pytest.raises(DataFolderRefused, match=r"run of data \(a, eye\).*framegate add"):
        resumed(run(file("a"), camera("eye")), [asked], FOLDER)


def test_no_camera_in_a_files_place() -> None:
    with pytest.raises(DataFolderRefused, match="source a: it is not in the run"):
        resumed(run(file("a")), [camera("a")], FOLDER)


def test_a_file_stays_whether_it_is_named_or_not() -> None:
    for asked in ([], [file("a")]):
        assert resumed(run(file("a")), asked, FOLDER).run.sources == (file("a"),)


def test_a_changed_file_is_refused_also_if_it_was_added(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"video")
    source = RunSource(str(path), name="a", file=fingerprint(str(path)), by="add")
    assert resumed(run(source), [], FOLDER).run.sources == (source,)
    path.write_bytes(b"views")
    with pytest.raises(DataFolderRefused, match="has another size or content"):
        resumed(run(source), [], FOLDER)
    path.unlink()
    with pytest.raises(DataFolderRefused, match="is missing or cannot be read"):
        resumed(run(source), [], FOLDER)


def test_the_printed_command_restores_the_time_of_a_file_from_an_archive(tmp_path: Path) -> None:
    """GNU tar keeps whole seconds by default, so the same file would be refused for ever."""
    path = tmp_path / "front door.mp4"
    path.write_bytes(b"video")
    changed_ns = 1_795_956_529_051_595_759
    os.utime(path, ns=(changed_ns, changed_ns))
    source = RunSource(str(path), name="a", file=fingerprint(str(path)))
    os.utime(path, (changed_ns // 10**9, changed_ns // 10**9))
    with pytest.raises(DataFolderRefused, match="another time of its last change") as refused:
        resumed(run(source), [], FOLDER)
    command = shlex.split(str(refused.value).splitlines()[-1])
    subprocess.run(command, check=True)
    assert resumed(run(source), [], FOLDER).run.sources == (source,)


NAMES = st.sets(st.sampled_from("abcdef"))


@given(configured=NAMES, added=NAMES, asked=NAMES)
def test_names_are_unique_and_nothing_that_was_added_is_lost(
    configured: set[str], added: set[str], asked: set[str]
) -> None:
    known = run(
        *(camera(name) for name in configured - added), *(camera(name, by="add") for name in added)
    )
    found = resumed(known, [camera(name) for name in asked], FOLDER)
    names = [source.name for source in (*found.run.sources, *found.new)]
    assert sorted(names) == sorted(added | asked)
