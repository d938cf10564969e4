"""`framegate snapshot` against the pictures of a source made by hand."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from pathlib import Path

import cv2
import httpx
import numpy as np
import pytest

from framegate.cli.control.watch import NoPicture, fetch, snapshot
from framegate.pipeline.contracts.errors import ConfigFaults, Exit
from framegate.pipeline.run.rpc import Running, announced
from framegate.stages.draw.pictures import Pictures
from tests.support.servers import server
from tests.support.studio import FORM, KNOWN, Studio
from tests.support.web_server import serving


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a run's data are, and where its user stands."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "data"


@pytest.fixture
def run(folder: Path) -> Iterator[None]:
    """A run whose source `door` shows frame 3."""
    with server(folder / "store") as store:
        studio = Studio(store)
        studio.show(3)
        pictures = Pictures(studio.frame_store, studio.url, lambda: KNOWN)
        with serving(pictures.routes()) as port, announced(folder, http=f"127.0.0.1:{port}"):
            yield
        studio.close()


@pytest.mark.usefixtures("run")
def test_a_snapshot_is_written_where_it_is_wanted(
    folder: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert snapshot("door", folder, None, plain=False) is Exit.DONE
    said = capfdbinary.readouterr()
    assert said.out == b"door.jpg\n"
    assert re.fullmatch(rb"framegate: door: a picture of \d+\.\d s ago \(.*\)\n", said.err)
    drawn = cv2.imread("door.jpg")
    assert drawn.shape == (FORM.height, FORM.width, 3)
    assert snapshot("door", None, Path("-"), plain=True) is Exit.DONE
    plain = cv2.imdecode(np.frombuffer(capfdbinary.readouterr().out, np.uint8), cv2.IMREAD_COLOR)
    assert plain.std() < 2 < drawn.std()


def test_the_last_picture_of_a_lost_camera_is_not_given_for_a_new_one(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with server(folder / "store") as store:
        studio = Studio(store)
        studio.show(3)
        lost = {"door": "lost: stalled: no frame for 5 s"}
        pictures = Pictures(studio.frame_store, studio.url, lambda: lost)
        with serving(pictures.routes()) as port, announced(folder, http=f"127.0.0.1:{port}"):
            assert snapshot("door", folder, None, plain=False) is Exit.SOURCE_FAILED
            assert Path("door.jpg").stat().st_size > 0
            assert capsys.readouterr().err.endswith("), the last one: the source is lost\n")
            answer = httpx.get(f"http://127.0.0.1:{port}/snapshot/door.jpg")
            assert answer.headers["X-Framegate-State"] == "lost"
            seen = parsedate_to_datetime(answer.headers["Last-Modified"]).timestamp()
            age_s = float(answer.headers["X-Framegate-Age"])
            assert seen + age_s == pytest.approx(time.time(), abs=60)
        studio.close()


@pytest.mark.usefixtures("run")
def test_what_cannot_be_had_is_said_and_no_file_is_written(folder: Path) -> None:
    with pytest.raises(ConfigFaults, match="no source window; there are: door, yard"):
        snapshot("window", folder, None, plain=False)
    with pytest.raises(ConfigFaults, match="a name must be a lower-case letter"):
        snapshot("../etc?a=b#c", folder, Path("x.jpg"), plain=False)
    with pytest.raises(NoPicture, match="yard: no frame yet; connecting: connection refused"):
        snapshot("yard", folder, None, plain=False)
    with pytest.raises(ConfigFaults, match=r"-o .*none: No such file or directory"):
        snapshot("door", folder, Path("none/x.jpg"), plain=False)
    assert list(Path().glob("*.jpg")) == []


def test_a_run_that_is_not_there_or_serves_no_http_is_said(folder: Path) -> None:
    with pytest.raises(ConfigFaults, match="no run is active in"):
        snapshot("door", folder, None, plain=False)
    with announced(folder), pytest.raises(ConfigFaults, match="has no HTTP port"):
        snapshot("door", folder, None, plain=False)
    with pytest.raises(NoPicture, match=r"http://127\.0\.0\.1:1: the run sent no picture"):
        fetch(Running(pid=1, folder="data", http="127.0.0.1:1"), "door", plain=False)
