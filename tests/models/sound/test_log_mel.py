"""Log-mel and scores against a second method by definition, and against the interpreter that the
network was published for.

`reference.json` holds what LiteRT 2.3.0 said of the published file for `SOUNDS`: see `__main__`.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from framegate.models.errors import ArrayMismatch
from framegate.models.sound.yamnet import RATE, WINDOW, SoundNetwork, labels, log_mel

REFERENCE = Path(__file__).with_name("reference.json")
TIMES = np.arange(WINDOW) / RATE


def noise(seed: int) -> np.ndarray:
    return np.random.Generator(np.random.PCG64(seed)).uniform(-1, 1, WINDOW)


SOUNDS = {
    "silence": np.zeros(WINDOW),
    "tone": 0.5 * np.sin(2 * np.pi * 440 * TIMES),
    "smoke alarm": 0.6 * np.sin(2 * np.pi * 3100 * TIMES) * (TIMES % 0.325 < 0.2),
    "siren": 0.5 * np.sin(2 * np.pi * (900 * TIMES - 300 / (2 * np.pi) * np.cos(4 * TIMES))),
    "noise": 0.2 * noise(1),
    "click": 0.9 * noise(2) * np.exp(-np.maximum(0, TIMES - 0.4) * 60) * (TIMES >= 0.4),
}


def samples_of(name: str) -> np.ndarray:
    return np.ascontiguousarray(SOUNDS[name], np.float32)


def by_definition(samples: np.ndarray) -> np.ndarray:
    """Each number by itself: a sum over time for each line of the spectrum, then over lines."""
    window = [math.sin(math.pi * n / 400) ** 2 for n in range(400)]
    lines = np.exp(-2j * np.pi * np.outer(np.arange(257), np.arange(400)) / 512)

    def mel(hertz: float) -> float:
        return 1127 * math.log(1 + hertz / 700)

    step = (mel(7500) - mel(125)) / 65
    rows = []
    for frame in range(96):
        part = samples[160 * frame : 160 * frame + 400].astype(np.float64) * window
        spectrum = [abs(x) for x in lines @ part]
        row = []
        for band in range(64):
            middle = mel(125) + (band + 1) * step
            heard = sum(
                max(0.0, 1 - abs(mel(line * 31.25) - middle) / step) * spectrum[line]
                for line in range(1, 257)
            )
            row.append(math.log(heard + 0.001))
        rows.append(row)
    return np.array(rows)


@pytest.mark.parametrize("name", ["tone", "click"])
def test_log_mel_is_what_its_definition_says(name: str) -> None:
    samples = samples_of(name)
    assert np.abs(log_mel(samples) - by_definition(samples)).max() < 0.01


def test_silence_is_the_floor() -> None:
    assert np.allclose(log_mel(samples_of("silence")), math.log(0.001))


@pytest.mark.parametrize("samples", [np.zeros(WINDOW - 1, np.float32), np.zeros(WINDOW)])
def test_another_window_is_refused(samples: np.ndarray) -> None:
    with pytest.raises(ArrayMismatch, match="15600"):
        log_mel(samples)


def test_there_are_521_labels_in_their_order() -> None:
    assert len(labels()) == len(set(labels())) == 521
    some = {0: "Speech", 70: "Bark", 393: "Smoke detector, smoke alarm", 437: "Shatter"}
    assert {i: labels()[i] for i in some} == some


def test_the_page_has_all_labels() -> None:
    page = Path(__file__).parents[3] / "docs" / "sound.md"
    told = " ".join(page.read_text(encoding="utf-8").partition("## All labels")[2].split())
    assert [label for label in labels() if label not in told] == []


@pytest.mark.parametrize("name", SOUNDS)
def test_scores_are_those_of_the_reference(name: str) -> None:
    """Within .08, which is what eight bits of activation, that ours has not, make of them."""
    found = SoundNetwork().scores(log_mel(samples_of(name)))
    said = {
        int(i): score
        for i, score in json.loads(REFERENCE.read_text(encoding="utf-8"))[name].items()
    }
    apart = {labels()[i]: (found[i], score) for i, score in said.items()}
    assert all(abs(a - b) < 0.08 for a, b in apart.values()), apart
    assert np.delete(found, list(said)).max() < min(said.values()) + 0.08


def test_the_same_sound_has_the_same_bits() -> None:
    one, other = SoundNetwork(), SoundNetwork()
    patch = log_mel(samples_of("siren"))
    assert one.scores(patch).tobytes() == other.scores(patch).tobytes()
    assert one.name == other.name


@pytest.mark.skipif(
    importlib.util.find_spec("ai_edge_litert") is None or not os.environ.get("YAMNET_TFLITE"),
    reason="needs ai-edge-litert, and YAMNET_TFLITE: the published file",
)
def test_the_kept_reference_is_what_the_interpreter_says() -> None:
    assert made(Path(os.environ["YAMNET_TFLITE"])) == json.loads(
        REFERENCE.read_text(encoding="utf-8")
    )


def made(network: Path) -> dict[str, dict[str, float]]:
    """The ten best scores of each sound, by number of the label."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(network), num_threads=1)
    interpreter.allocate_tensors()
    (given,), (told,) = interpreter.get_input_details(), interpreter.get_output_details()
    found = {}
    for name in SOUNDS:
        interpreter.set_tensor(given["index"], samples_of(name))
        interpreter.invoke()
        scores = interpreter.get_tensor(told["index"])[0]
        best = np.argsort(-scores, kind="stable")[:10]
        found[name] = {str(i): round(float(scores[i]), 4) for i in best}
    return found


if __name__ == "__main__":
    REFERENCE.write_text(json.dumps(made(Path(sys.argv[1])), indent=1) + "\n", encoding="utf-8")
