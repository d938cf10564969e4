"""What all tests of recordings need."""

from __future__ import annotations

import pytest

from framegate.pipeline.recording import take
from tests.support.runs import DEADLINE_S


@pytest.fixture(autouse=True)
def waits_for_adoption(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a take wait until files without a row are taken in, however busy the machine is: a test
    looks at the rows right after it.
    """
    monkeypatch.setattr(take, "ADOPTION_S", DEADLINE_S)
