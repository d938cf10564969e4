"""`framegate models get`: published detectors, from servers with the right file or another one."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from types import MappingProxyType
from urllib.parse import urlsplit

import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from framegate.cli.main import main
from framegate.cli.own_models import get as models_get
from framegate.cli.own_models.get import PUBLISHED, PublishedModel
from framegate.models.formats.table import FORMATS
from framegate.stages.detect.options import is_own, model_fault
from tests.support import rectangle_nets
from tests.support.web_server import serving


def test_each_is_a_release_of_its_authors_with_a_digest_and_a_free_name() -> None:
    for name, model in PUBLISHED.items():
        assert urlsplit(model.url).scheme == "https"
        assert "/releases/download/" in model.url
        assert re.fullmatch(r"[0-9a-f]{64}", model.sha256)
        assert model.format in FORMATS
        assert model_fault(name) is None
        assert not is_own(name)
    assert len({model.sha256 for model in PUBLISHED.values()}) == len(PUBLISHED)


def test_a_published_detector_is_fetched_checked_and_added(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = rectangle_nets.yolox()
    digest = hashlib.sha256(data).hexdigest()

    async def file(_: Request) -> Response:
        return Response(data)

    get = ["models", "get", "square", "--registry", str(tmp_path / "registry")]
    with serving([Route("/square.onnx", file)]) as port:
        url = f"http://127.0.0.1:{port}/square.onnx"
        square = PublishedModel(url, digest, "red,blue", "yolox", "MIT", "small")
        monkeypatch.setattr(models_get, "PUBLISHED", MappingProxyType({"square": square}))
        assert main(get) == 0
        assert "added: square@1" in capsys.readouterr().out
    assert main(["models", "show", "square", *get[3:]]) == 0
    out = capsys.readouterr().out
    assert "licence    MIT" in out
    assert f"{url} (sha256 {digest})" in out


def test_another_file_than_the_published_one_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def file(_: Request) -> Response:
        return Response(b"another file")

    registry = tmp_path / "registry"
    with serving([Route("/yolox_s.onnx", file)]) as port:
        mirror = f"http://127.0.0.1:{port}/yolox_s.onnx"
        words = ["models", "get", "yolox-s", "--url", mirror, "--registry", str(registry)]
        assert main(words) == 2
    assert (
        f"expected {PUBLISHED['yolox-s'].sha256}: the file was changed" in capsys.readouterr().err
    )
    assert not registry.exists()


def test_a_name_or_a_place_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "get", "yolox-x"]) == 2
    err = capsys.readouterr().err
    assert "yolox-x: unknown; must be any of yolox-nano, yolox-tiny, yolox-s" in err
    assert main(["models", "get", "yolox-s", "--url", "yolox_s.onnx"]) == 2
    assert "must begin with http:// or https://" in capsys.readouterr().err
