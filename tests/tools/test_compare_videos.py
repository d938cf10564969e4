"""Two checkouts beside each other: what each drew, numbered, and nothing inside the repository."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tools.compare_videos import ROOT, main, sheet_of


def test_a_sheet_has_rows_of_three_and_black_at_the_end() -> None:
    pictures = [np.full((10, 20, 3), 10 * (number + 1), np.uint8) for number in range(4)]
    sheet = sheet_of(pictures)
    assert sheet.shape == (20, 60, 3)
    assert sheet[0, [0, 20, 40], 0].tolist() == [10, 20, 30]
    assert sheet[10, [0, 20, 40], 0].tolist() == [40, 0, 0]


def test_footage_of_others_stays_outside(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([str(tmp_path), str(ROOT / "sheets"), "--data", str(tmp_path)])
    said = " ".join(capsys.readouterr().err.split())
    assert "choose a folder outside, the footage is not ours" in said
    assert not (ROOT / "sheets").exists()
