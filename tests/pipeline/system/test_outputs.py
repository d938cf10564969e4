"""No command writes over what it reads, nor over what is there."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from framegate.pipeline.contracts.errors import ConfigFaults
from framegate.pipeline.system.outputs import Inputs, output_faults, save_faults, write_whole
from tests.support import footage
from tests.support.asked import Asked, service
from tests.support.commands import framegate, user_folder
from tests.support.runs import wait_until


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


LINKS: dict[str, Callable[[Path, Path], None]] = {
    "hard link": lambda clip, at: os.link(clip, at),
    "symbolic link": lambda clip, at: at.symlink_to(clip),
    "the file": lambda *_: None,
}


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_source_is_never_an_output_whatever_leads_there(
    tmp_path: Path, link: str, overwrite: bool
) -> None:
    out = tmp_path / "gate.framegate.mp4"
    clip = tmp_path / "film.mp4" if link != "the file" else out
    clip.write_bytes(b"film")
    LINKS[link](clip, out)
    (tmp_path / "there").symlink_to(tmp_path)
    sources = {"gate": str(tmp_path / "other.mp4"), "b": str(clip)}
    for folder in (tmp_path, tmp_path / "there"):
        (fault,) = save_faults(folder, sources, overwrite)
        assert "source b reads this file" in fault
        assert "select another folder or name" in fault
    assert output_faults("--plot", out, Inputs({"source b": f"file://{clip}"}), overwrite)


def test_a_further_part_is_no_source_either(tmp_path: Path) -> None:
    clip = tmp_path / "gate.framegate-2.mp4"
    clip.write_bytes(b"film")
    (fault,) = save_faults(tmp_path, {"gate": "gate.mp4", "b": str(clip)}, overwrite=True)
    assert "source b reads this file" in fault
    assert save_faults(tmp_path, {"b": str(clip)}, overwrite=True) == []


def test_what_is_there_is_replaced_only_if_that_is_said(tmp_path: Path) -> None:
    path = tmp_path / "a.svg"
    path.write_bytes(b"old")
    (fault,) = output_faults("--plot", path, Inputs({}), overwrite=False)
    assert "--overwrite" in fault
    assert output_faults("--plot", path, Inputs({}), overwrite=True) == []
    with pytest.raises(ConfigFaults, match="already exists"):
        write_whole("--plot", path, b"new", overwrite=False)
    assert path.read_bytes() == b"old"
    write_whole("--plot", path, b"new", overwrite=True)
    assert path.read_bytes() == b"new"
    assert [one.name for one in tmp_path.iterdir()] == ["a.svg"]
    for strange in (tmp_path, Path("/dev/null")):
        (fault,) = output_faults("--plot", strange, Inputs({}), overwrite=True)
        assert "no regular file" in fault


def test_a_link_is_replaced_not_what_it_leads_to(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.write_bytes(b"theirs")
    path = tmp_path / "a.svg"
    path.symlink_to(theirs)
    write_whole("--plot", path, b"new", overwrite=True)
    assert theirs.read_bytes() == b"theirs"
    assert path.read_bytes() == b"new"


def test_a_folder_that_takes_nothing_is_told_before(tmp_path: Path) -> None:
    (fault,) = output_faults("-o", tmp_path / "none" / "a.jpg", Inputs({}), False)
    assert fault.startswith(f"-o {tmp_path / 'none'}: No such file")
    assert save_faults(tmp_path / "new" / "folder", {"a": "a.mp4"}, False) == []
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    (fault,) = save_faults(tmp_path / "file", {"a": "a.mp4"}, False)
    assert "Not a directory" in fault


@pytest.fixture
def user(tmp_path: Path) -> Path:
    folder = user_folder(tmp_path / "user")
    footage.write_scene(folder / "clip.mp4", footage.steady(20))
    return folder


def test_saving_beside_the_clip_leaves_the_clip_alone(user: Path) -> None:
    """What many type first; and a video of the run that is given to it as a source."""
    before = digest(user / "clip.mp4")
    made = user / "clip.framegate.mp4"
    asked = Asked(user)
    with service(user, "--save", ".", "--overwrite", "--http", "off") as run:
        asked.does("add", "clip.mp4")
        wait_until("the video is finished", made.exists)
        refused = asked.says("add", "b=clip.framegate.mp4")
        assert refused.returncode == 2
        assert "source b reads this file" in refused.stderr
        run.interrupt()
        assert run.wait().code == 0
    assert digest(user / "clip.mp4") == before
    assert sorted(path.name for path in user.glob("*.mp4*")) == ["clip.framegate.mp4", "clip.mp4"]
    first = digest(made)
    again = framegate(user, "run", "clip.mp4", "--save", ".", "-d", "new", "--http", "off")
    assert again.code == 2
    assert "clip.framegate.mp4 already exists; select another name" in again.err
    assert digest(made) == first
    assert not (user / "new").exists()
