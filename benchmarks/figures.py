"""`python -m benchmarks.figures`: write the results into the documents' tables; a test compares.

A table stands between `<!-- figures: NAME -->` and `<!-- end -->` and comes from results/NAME.json.
Where the code behind a result is not what it was measured with, its table says that it is old.
`chosen` is four of them, for the first page; `missed` is what was wanted and not reached, with why.
"""

from __future__ import annotations

import re
import statistics
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.all import NAMES, declared, is_current, kept

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = tuple(
    ROOT / name
    for name in (
        "README.md",
        "docs/figures.md",
        "docs/learning.md",
        "docs/limits.md",
        "docs/privacy.md",
    )
)
MARKED = re.compile(r"(<!-- figures: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)

SHOWN = (("nanodet-416", "f32"), ("nanodet-416", "int8+bf16"), ("heavy", "int8+bf16"))

Row = tuple[str, str, str]

OVERHEAD: tuple[Row, ...] = (
    ("CPU a frame, 1 file", "cpu_ms_file_1", "ms"),
    ("... against the same stages over `multiprocessing.Queue`", "cpu_ratio_file_1", "times"),
    ("CPU a frame, 4 files", "cpu_ms_file_4", "ms"),
    ("... against `multiprocessing.Queue`", "cpu_ratio_file_4", "times"),
    ("CPU a frame, 4 sources at 30 frames/s, phases spread", "cpu_ms_live_spread", "ms"),
    ("... against `multiprocessing.Queue`", "cpu_ratio_live_spread", "times"),
    ("CPU a frame, 4 sources at 30 frames/s, on one tick", "cpu_ms_live_tick", "ms"),
    ("... against `multiprocessing.Queue`", "cpu_ratio_live_tick", "times"),
    ("one hop, median", "hop_p50_us", "µs"),
    ("one hop, 99 % below", "hop_p99_us", "µs"),
    ("source to result, median", "e2e_p50_ms", "ms"),
    ("source to result, 99 % below", "e2e_p99_ms", "ms"),
    ("append-only file", "aof_bytes_per_frame", "bytes a frame"),
)
END_TO_END: tuple[Row, ...] = (
    ("frames/s against the faster of two bare loops", "fps_ratio", "times"),
    ("arrival to publish at the clip's own rate, median", "latency_p50_ms", "ms"),
    ("... 99 % below", "latency_p99_ms", "ms"),
    ("... against the bare loop's", "latency_p99_ratio", "times"),
    ("the model alone", "model_ms", "ms"),
    ("CPU for a second of video", "cpu_s_per_video_s", "s"),
    ("... against Roboflow's", "peer_cpu_ratio", "times"),
    ("99 % below, against Roboflow's", "peer_p99_ratio", "times"),
    ("peak memory of the whole tree", "peak_rss_mb", "MB"),
)
PROMISE: tuple[Row, ...] = (
    ("frames of a composed hour", "frames", ""),
    ("audits (n)", "n", ""),
    ("wrong ones among them (k)", "k", ""),
    ("the certificate: at most so many frames differ, at 95 %", "certified_bound", "of all"),
    ("frames that do differ, of all", "realised_error", "of all"),
    ("asked about before they were served", "escalated_share", "of all"),
    ("... by an oracle, each answer for its own frame", "oracle_share", "of all"),
    ("audited", "audit_share", "of all"),
    ("CPU of all processes, by that of a heavy pass on every frame", "cpu_ratio_vs_heavy", "times"),
)
CACHE: tuple[Row, ...] = (
    (
        "hits from the second round of a looped clip on, gate off",
        "hit_rate_second_round",
        "of looks",
    ),
    ("... the detector's CPU without the cache, by that with it", "detector_cpu_ratio", "times"),
    (
        "hits there with the gate on, which looks elsewhere in each round",
        "gate_on_hit_rate_second_round",
        "of looks",
    ),
    ("a look-up in the store", "look_up_ms", "ms"),
    (
        "what it costs on a source without hits, once it has switched itself off",
        "noisy_cost",
        "of a pass",
    ),
)
SWAPS = (
    ("p99 from `models use` to two seconds after, against a span without", "p99_ratio", "times"),
    ("... after a rollback", "rollback_p99_ratio", "times"),
    ("p99 without a change, two cameras", "p99_before_ms", "ms"),
    ("changes in a row", "swaps", ""),
    ("memory, second half of these against the first", "memory_growth", "more"),
    ("descriptors, likewise", "fd_growth", "more"),
)
SHADOW = (
    ("p99 of four cameras beside a shadow, against without", "p99_ratio", "times"),
    ("its CPU, in its worst span", "cpu_share", "of a core"),
    ("its budget", "cpu_budget", "of a core"),
)
SOUND = (
    ("labelled sounds of which a right label is in the top 5", "top5", "of all"),
    ("... by LiteRT, of the published file", "reference_top5", "of all"),
    ("labels of LiteRT's top 5 that are in ours", "top5_agreement", "of them"),
    ("worst difference of a score, mean of a sound's windows", "worst_difference", ""),
    ("CPU a second of sound, if each window is looked at", "cpu_ms_per_second", "ms"),
    ("... by LiteRT", "reference_cpu_ms_per_second", "ms"),
    (
        "windows not looked at: ten minutes of a room in which each sound is played",
        "scenes.0.skipped",
        "of all",
    ),
    ("... ten seconds in a kitchen, somebody speaking", "scenes.1.skipped", "of all"),
    ("... a clip with a silent track", "scenes.2.skipped", "of all"),
    ("labels of what was played in the room", "scenes.0.played_labels", ""),
    ("... that the gate missed", "scenes.0.played_labels_missed", ""),
)
RECORDING = (
    ("CPU of recording 8 cameras of 1080p, 4 Mbit/s and sound each", "core_share", "of a core"),
    ("packets of these recordings", "packets", ""),
    ("... that are byte for byte what came", "packets_equal", ""),
    ("from a time to its decoded picture, p99", "seek_p99_ms", "ms"),
    ("processes that were killed while they recorded", "kills", ""),
    ("... what that lost of the recording, at most", "lost_most_s", "s"),
    ("... pictures that do not decode afterwards", "undecodable", ""),
)
SEARCH = (
    (
        "time of the searched network, by that of the narrowed one of half the channels",
        "ms_ratio",
        "",
    ),
    ("... F1, likewise", "f1_ratio", ""),
    ("F1 of the searched network", "searched_f1", ""),
    ("... of the best of 32 random ones of the same time", "random_best_f1", ""),
    ("... of the general one narrowed further, without a search", "narrowed_f1", ""),
    ("its time, by that of half the channels", "narrowed_ms_ratio", ""),
    ("worst error of predicted times, 20 networks", "latency_error", ""),
)
DRIFT = (
    ("a camera is turned: frames to the alarm", "drifts.0.frames_to_alarm", ""),
    ("... audits among them", "drifts.0.audits_to_alarm", ""),
    ("night falls: frames to the alarm", "drifts.1.frames_to_alarm", ""),
    ("... audits among them", "drifts.1.audits_to_alarm", ""),
    ("false alarms", "false_alarms", ""),
    ("drifted periods that were certified", "drifted_certified", ""),
)
HEAD = (
    ("AP beyond the calm rule's alone", "ap_gain.0", ""),
    ("... 95 %, from", "ap_gain.1", ""),
    ("... to", "ap_gain.2", ""),
    ("F1 beyond the calm rule's alone", "f1_gain.0", ""),
    ("... 95 %, from", "f1_gain.1", ""),
    ("... to", "f1_gain.2", ""),
    ("flicker, by that of every frame's boxes", "flicker_ratio", "times"),
)
SOAK = (
    ("minutes", "minutes", ""),
    ("workers killed", "kills.worker", ""),
    ("camera servers killed", "kills.server", ""),
    ("stores killed", "kills.store", ""),
    ("sources added", "guests.added", ""),
    ("samples of the accounting", "samples", ""),
    ("... in which it did not close", "samples_unbalanced", ""),
    ("results that came twice", "doubled", ""),
    ("recorded files that were lost", "recordings_lost", ""),
    ("idle connections to the HTTP port", "idle_connections", ""),
    ("longest answer of /healthz", "healthz_worst_s", "s"),
    ("dropped of pictures that come 8 at once, share", "burst_dropped", ""),
    ("dropped of the same pictures one by one, share", "steady_dropped", ""),
    ("p99 beside hostile cameras, against without", "neighbour_p99_ratio", "times"),
    ("memory, most", "slopes.memory_mb.most", "MB"),
    ("the store's log, most", "slopes.log_mb.most", "MB"),
)
_LISTS = {
    "drift": DRIFT,
    "head": HEAD,
    "soak": SOAK,
    "overhead": OVERHEAD,
    "end_to_end": END_TO_END,
    "promise": PROMISE,
    "cache": CACHE,
    "swaps": SWAPS,
    "shadow": SHADOW,
    "search": SEARCH,
    "recording": RECORDING,
    "sound": SOUND,
}


_COLD = "at a camera's pace caches are cold: decoding and looks alone take half as much again"

# Why a bar is missed, where that is known: by benchmark and the first words of what is measured.
WHY: dict[tuple[str, str], str] = {
    ("boxes", "precision of people"): "no least score has both: the curve in the result",
    ("boxes", "recall of people"): "no least score has both: the curve in the result",
    ("learn", "tuned: F1 over 416 at .31, mean"): (
        "one clip, which is refused, was given 320 pixels; with 416, as others, it would be .106"
    ),
    ("learn", "tuned: F1 over 416 at .31, worst"): "30 objects judge: the model is refused",
    ("learn", "compact: F1 over 416 tuned"): "what is clearly worse is refused, and counted here",
    ("learn", "compact: time in f32"): (
        "of whole looks: resizing and reading boxes are in both; the networks alone are .23"
    ),
    ("batching", "p99"): "no look is broken off for another one, so twice its time is the least",
    ("first_contact", "save an annotated video: seconds"): (
        "a store and workers are started, and precisions tried, before the first frame of 10 s"
    ),
    ("floor", "quiet, 432"): _COLD,
    ("floor", "quiet, 1080"): _COLD,
    ("floor", "busy, 432"): _COLD,
    ("floor", "one quiet camera"): _COLD,
    ("gate", "cctv-highway-overlay: lead"): "frames evenly spaced in time do better on this clip",
    ("gate", "kitchen-pancake: lead"): "frames evenly spaced in time do better on this clip",
    ("guard", "changed scenes"): (
        "eight frames of a handful of boxes judge; the audits of these minutes saw no difference"
    ),
    ("head", "F1 gained"): "average precision gains; of F1 no gain is shown on these clips",
    ("link", ""): "measured while a picture still waited for the next one to begin, 100 ms",
    ("search", "F1 of the searched"): "slices of shared weights begin from little; so no option",
    ("search", "F1 above the net narrowed"): "least squares keep what a long training knew",
    ("soak", "/healthz"): "other work ran beside it, and strangers came back 200 at a time",
    ("overhead", "live"): "at a live pace the cost is waking processes, frame by frame",
}


def table(name: str) -> str:
    """The lines of a table; one that says so where there is no result yet."""
    if name in ("missed", "chosen"):
        return _missed() if name == "missed" else _chosen()
    of = _OF.get(name, name)
    result = kept(of)
    if result is None:
        return f"Not measured yet: `python -m benchmarks.{of}` will.\n"
    return _SHAPES.get(name, partial(_list, name))(result) + _age(of, result)


def _age(name: str, result: dict[str, Any]) -> str:
    """A line where the code behind the result is another one than was measured."""
    if is_current(name):
        return ""
    commit = result["conditions"].get("commit")
    made = f"commit {commit[:9]}" if commit else "commit unknown"
    return f"\n*Old: the code behind these figures changed since they were measured ({made}).*\n"


def _missed() -> str:
    head = "| figure | wanted | measured | why |\n| --- | --- | --- | --- |\n"
    lines = []
    for name in NAMES:
        result = kept(name)
        for bar in [] if result is None else declared(name).bars(result):
            if bar.held is False and bar.measured is not None:
                cells = f"{bar.sign} {_number(bar.wanted)} | {_number(bar.measured)}{_mark(name)}"
                lines.append(f"| {name}: {bar.what} | {cells} | {_why(name, bar.what)} |\n")
    return head + "".join(lines)


def _why(name: str, what: str) -> str:
    reasons = (why for (of, begins), why in WHY.items() if of == name and what.startswith(begins))
    return next(reasons, "not known")


def _mark(name: str) -> str:
    return "" if is_current(name) else " (old)"


def _chosen() -> str:
    """Four figures for the first page, each with a link to its table."""
    rows = (row for chosen in (_whole, _cameras, _kills, _saved) if (row := chosen()) is not None)
    lines = [
        f"| [{what}](docs/figures.md#{anchor}) | {told}{_mark(name)} |\n"
        for name, anchor, what, told in rows
    ]
    return "".join(["| what | measured |\n| --- | --- |\n", *lines])


# A chosen figure: benchmark, heading of its table as an anchor, what it is, what was measured.
Chosen = tuple[str, str, str, str]


def _whole() -> Chosen | None:
    if (result := kept("end_to_end")) is None:
        return None
    what = "Frames/s on a busy clip, by the faster of two bare loops around the same network"
    return "end_to_end", "the-whole-job", what, f"{_number(result['fps_ratio'])} times"


def _cameras() -> Chosen | None:
    if (result := kept("live")) is None:
        return None
    (point,) = (p for p in result["points"] if (p["cameras"], p["height"]) == (16, 360))
    ours, theirs = (
        f"{_number(point[f'{who}p99_ms'])} ms, {_number(point[f'{who}rss_mb'])} MB"
        for who in ("", "peer_")
    )
    what = (
        f"16 cameras of 640x360 at 10 frames/s on {result['conditions']['cores']} cores: 99 % of "
        "results within, memory (and Roboflow's pipeline with the same network)"
    )
    return "live", "cameras", what, f"{ours} ({theirs})"


def _kills() -> Chosen | None:
    if (result := kept("soak")) is None:
        return None
    kills = _number(sum(result["kills"].values()))
    what = f"Half an hour with {kills} kills: results that came twice, samples that did not add up"
    told = f"{_number(result['doubled'])}, {_number(result['samples_unbalanced'])}"
    return "soak", "half-an-hour-of-kills", what, told


def _saved() -> Chosen | None:
    if (result := kept("gate")) is None:
        return None
    ratios = [clip["cpu_ratio"] for clip in result["clips"]]
    what = f"CPU of the whole pipeline with the gate, by that without it, on {len(ratios)} clips"
    return (
        "gate",
        "the-gate-clip-by-clip",
        what,
        f"{_number(min(ratios))} to {_number(max(ratios))}",
    )


def _list(name: str, result: dict[str, Any]) -> str:
    rows = [
        f"| {text} | {f'{_number(value)} {unit}'.strip()} |\n"
        for text, key, unit in _LISTS[name]
        if (value := _at(key, result)) is not None
    ]
    return "".join(["| what | measured |\n| --- | --- |\n", *rows])


def _detectors(result: dict[str, Any]) -> str:
    head = (
        "| detector | precision | mAP coco128 | mAP val2017 part | ms, 1 thread | 2 threads |\n"
        "| --- | --- | --- | --- | --- | --- |\n"
    )
    found = {(model["name"], model["precision"]): model for model in result["models"]}
    return head + "".join(_detector(*key, found[key]) for key in SHOWN if key in found)


def _detector(name: str, precision: str, model: dict[str, Any]) -> str:
    maps = [model["sets"][which]["map"] for which in ("coco128", "coco-val2017-a")]
    accuracy = " | ".join(f"{value:.3f}" for value in maps)
    return f"| {name} | {precision} | {accuracy} | {model['ms_1t']:.0f} | {model['ms_2t']:.0f} |\n"


def _live(result: dict[str, Any]) -> str:
    head = (
        "| cameras | height | dropped | p50 ms | p99 ms | CPU cores | MB "
        "| Roboflow: dropped | p50 ms | p99 ms | CPU cores | MB |\n"
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n"
    )
    keys = ("dropped", "p50_ms", "p99_ms", "cpu_cores", "rss_mb")
    columns = ("cameras", "height", *keys, *(f"peer_{key}" for key in keys))
    points = [[_cell(point.get(key)) for key in columns] for point in result["points"]]
    table = head + "".join(f"| {' | '.join(cells)} |\n" for cells in points)
    return table + "".join(
        f"\nHeld of a {scene} scene: {held['360']} cameras of 360 rows, {held['1080']} of 1080.\n"
        for scene, held in (
            ("busy", result.get("cameras_held")),
            ("quiet", result.get("quiet_held")),
        )
        if held
    )


def _floor(result: dict[str, Any]) -> str:
    head = (
        "| scene | rows | frames/s | cameras | CPU ms a frame | before | floor | times "
        "| floor at that pace | times | switches | system calls | store commands "
        "| p50 ms | p99 ms |\n"
        f"|{' --- |' * 15}\n"
    )
    lines = []
    for point in result["points"]:
        cameras = f"{point['cameras']}{', RTSP' * (point['over'] == 'rtsp')}"
        cells = [
            f"{point['load']}{', one core' if point.get('one_core') else ''}",
            *(f"{point[key]:g}" for key in ("height", "fps")),
            cameras,
            _cell(point["cpu_ms"]),
            _cell((point.get("before") or {}).get("cpu_ms")),
        ]
        keys = ("floor_ms", "ratio", "floor_paced_ms", "ratio_paced", "switches", "system_calls")
        cells += [_cell(point.get(key)) for key in (*keys, "store_commands", "p50_ms", "p99_ms")]
        lines.append(f"| {' | '.join(cells)} |\n")
    return head + "".join(lines) + _parts(result["points"])


def _parts(points: list[dict[str, Any]]) -> str:
    """CPU of the job alone by part, for each of what the cameras show."""
    seen = {f"{one['load']}, {one['height']} rows, {one['fps']:g}/s": one for one in points}
    names = list(points[0]["parts_ms"])
    lines = [f"\n| CPU ms a frame of the job alone | {' | '.join(names)} |\n"]
    lines.append(f"|{' --- |' * (len(names) + 1)}\n")
    for what, point in seen.items():
        cells = (_number(point["parts_ms"][name]) for name in names)
        lines.append(f"| {what} | {' | '.join(cells)} |\n")
    return "".join(lines)


def _workers_cpu(cpu_by_process: dict[str, float]) -> float:
    """Of the worker that hosts detect, or of all shards."""
    return sum(s for who, s in cpu_by_process.items() if who == "infer" or who.startswith("shard-"))


def _own(result: dict[str, Any]) -> str:
    head = (
        "| looked at by | height | published | dropped | CPU ms a frame | ... of its worker |\n"
        "| --- | --- | --- | --- | --- | --- |\n"
    )
    lines = []
    for point in sorted(result["points"], key=lambda one: (one["height"], one["by"][::-1])):
        per_frame = 1e3 * point["seconds"] / point["published"]
        cells = (
            point["by"],
            f"{point['height']}",
            f"{point['published']}",
            f"{point['dropped']}",
            f"{point['cpu_cores'] * per_frame:.1f}",
            f"{_workers_cpu(point['cpu_by_process']) * per_frame:.1f}",
        )
        lines.append(f"| {' | '.join(cells)} |\n")
    return head + "".join(lines)


def _gate(result: dict[str, Any]) -> str:
    head = (
        "| clip | group | pixels | F1 | ceiling | subsampling | events met | CPU |\n"
        "| --- | --- | --- | --- | --- | --- | --- | --- |\n"
    )
    keys = ("share", "f1", "ceiling", "rival_f1", "event_recall", "cpu_ratio")
    lines = []
    for clip in result["clips"]:
        cells = (_cell(clip.get(key)) for key in keys)
        lines.append(f"| {clip['clip']} | {clip['group']} | {' | '.join(cells)} |\n")
    return head + "".join(lines)


def _cascade(result: dict[str, Any]) -> str:
    head = (
        "| clip | group | F1 light | F1 | gap closed | asked | CPU by heavy | mean ms | p99 ms |\n"
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |\n"
    )
    keys = (
        "f1_light",
        "f1",
        "gap_closed",
        "escalated_share",
        "cpu_ratio_heavy",
        "mean_ms",
        "p99_ms",
    )
    lines = []
    for clip in result["clips"]:
        cells = (_cell(clip.get(key)) for key in keys)
        lines.append(f"| {clip['clip']} | {clip['group']} | {' | '.join(cells)} |\n")
    return head + "".join(lines)


def _quantization(result: dict[str, Any]) -> str:
    head = (
        "| network | faster than f32 | mAP f32 | mAP INT8 | loss, 95 % | weights by f32 |\n"
        "| --- | --- | --- | --- | --- | --- |\n"
    )
    lines = []
    for model in result["models"]:
        maps = f"{model['map_f32']:.3f} | {model['map_int8']:.3f}"
        loss = f"{model['loss_low']:.3f} to {model['loss_high']:.3f}"
        cells = f"{model['speedup']:.2f} | {maps} | {loss} | {model['weight_ratio']:.3f}"
        lines.append(f"| {model['name']} | {cells} |\n")
    return head + "".join(lines)


def _faces(result: dict[str, Any]) -> str:
    lines = [
        "| face's height | pictures that | faces | blurred | 95 % |\n"
        "| --- | --- | --- | --- | --- |\n"
    ]
    told = {"judged": "judge", "chosen": "chose the threshold"}
    for row in sorted(result["recall"], key=lambda row: row["set"] == "chosen"):
        share = f"{row['share']:.2f} | {row['low']:.2f} to {row['high']:.2f}"
        lines.append(f"| {row['height']} | {told[row['set']]} | {row['faces']} | {share} |\n")
    cost = ", ".join(f"{one['cpu_ms']:.0f} ms at {one['width']}" for one in result["cpu"])
    nothing = result["curve"][0]["boxes_of_nothing"]
    lines.append(
        f"\nCPU of a picture by its width: {cost}.\nBlurred and no face, in a photograph "
        f"without people: {nothing:.1f}.\n"
    )
    return "".join(lines)


def _learn(result: dict[str, Any]) -> str:
    head = (
        "| clip | objects | at .31 | as it ships | tuned, 95 % | over as it ships, 95 % "
        "| CPU min |\n"
        "| --- | --- | --- | --- | --- | --- | --- |\n"
    )
    lines = []
    for clip in result["clips"]:
        low, high = clip["interval"]
        least, most = clip["gain_shipped_95"]
        refused = " (refused)" if clip["refused"] else ""
        cells = (
            f"{clip['clip']}{refused}",
            f"{clip['boxes']}",
            f"{clip['f1_general']:.3f}",
            f"{clip['f1_shipped']:.3f}",
            f"{clip['f1_tuned']:.3f}, {low:.3f} to {high:.3f}",
            f"{clip['gain_shipped']:+.3f}, {least:+.3f} to {most:+.3f}",
            f"{clip['cpu_minutes_tuned']:.1f}",
        )
        lines.append(f"| {' | '.join(cells)} |\n")
    return head + "".join(lines)


def _networks(result: dict[str, Any]) -> str:
    """Each network of a clip's own."""
    head = (
        "| clip | network | F1 | over 416 tuned, 95 % | over 320, 224 tuned | time in f32, bf16, "
        "of 416 | CPU min | photographs: own classes, before |\n"
        "| --- | --- | --- | --- | --- | --- | --- | --- |\n"
    )
    lines = []
    for clip in result["clips"]:
        for one in clip["networks"] or ():
            low, high = one["gain_95"]
            over = clip[f"{one['size']}_over"]
            times = one["times"].values()
            forgotten = one["forgotten"]
            refused = " (refused)" if one["refused"] else ""
            cells = (
                clip["clip"],
                f"{one['size']}{refused}",
                f"{one['f1']:.3f}",
                f"{one['gain']:+.3f}, {low:+.3f} to {high:+.3f}",
                ", ".join(f"{value:+.3f}" for value in over.values()),
                ", ".join(f"{each['own'] / each['general']:.2f}" for each in times),
                f"{one['cpu_minutes']:.1f}",
                f"{forgotten['own']:.2f}, {forgotten['own_general']:.2f}",
            )
            lines.append(f"| {' | '.join(cells)} |\n")
    trained = [(size, seeds) for size, seeds in result["networks"].items() if any(seeds.values())]
    so_far = "; ".join(
        f"{size}: {sum(map(bool, seeds.values()))} of 3 seeds, "
        f"{len(set().union(*seeds.values()))} of {len(result['clips'])} clips"
        for size, seeds in trained
    )
    return head + "".join(lines) + f"\nSo far {so_far}.\n" + _people(result)


def _curves(result: dict[str, Any]) -> str:
    """Points that were trained, by what is changed."""
    head = (
        "| clip | pictures that teach | steps | input | F1 | ... of the light detector, tuned to "
        "them | CPU min of training |\n| --- | --- | --- | --- | --- | --- | --- |\n"
    )
    lines = []
    for clip in result["clips"]:
        tuned = {one["frames"]: one["f1"] for one in clip["tuned"]}
        for one in sorted(
            clip["points"] or (), key=lambda one: (one["frames"], one["steps"], one["side"])
        ):
            cells = (
                clip["clip"],
                f"{one['frames']}",
                f"{one['steps']}",
                f"{one['side']}",
                f"{one['f1']:.3f}",
                f"{tuned[one['frames']]:.3f}",
                f"{one['train_cpu_s'] / 60:.1f}",
            )
            lines.append(f"| {' | '.join(cells)} |\n")
    return head + "".join(lines)


def _people(result: dict[str, Any]) -> str:
    """What people's labels say of who shows people, where a clip has labels."""
    lines = []
    for clip in result["clips"]:
        own = {one["size"]: one["people"] for one in clip["networks"] or () if one["people"]}
        for who, said in {**clip["labels"], **own}.items():
            figures = (said.get(key) for key in ("precision", "recall", "f1", "ap"))
            cells = " | ".join("-" if one is None else f"{one:.3f}" for one in figures)
            lines.append(f"| {_WHO.get(who, who)} | {cells} |\n")
    head = (
        "\n| people of PETS 2009, against labels | precision | recall | F1 | AP |\n"
        "| --- | --- | --- | --- | --- |\n"
    )
    return head + "".join(lines)


_WHO = {"general": "416 at .31", "shipped": "416 as it ships", "tuned": "416 tuned"}


def _first_contact(result: dict[str, Any]) -> str:
    head = (
        "| task | lines | s to the first result | Roboflow: lines in Python | lines by its server "
        "| s to the first result |\n| --- | --- | --- | --- | --- | --- |\n"
    )
    keys = ("lines", "seconds", "peer_lines", "peer_lines_server", "peer_seconds")
    lines = []
    for task in result["tasks"]:
        cells = (_cell(task[key]) for key in keys)
        lines.append(f"| {task['task']} | {' | '.join(cells)} |\n")
    lines.append("\n| | Framegate | Roboflow |\n| --- | --- | --- |\n")
    for what, ours, theirs in _beside(result):
        lines.append(f"| {what} | {_cell(ours)} | {_cell(theirs)} |\n")
    return head + "".join(lines)


def _beside(result: dict[str, Any]) -> Iterator[tuple[str, float | None, float | None]]:
    """What first contact has of both sides beside the tasks: what it is, ours, theirs."""
    rows = (("installed, MB", "mb"), ("... of it CUDA", "mb_cuda"), ("s to install", "seconds"))
    for what, key in rows:
        ours, theirs = ((result[f"{who}installed"] or {}).get(key) for who in ("", "peer_"))
        yield what, ours, theirs
    loaded = "s to `import inference`, which count and video above did without"
    yield loaded, None, result["peer_import_s"]
    for absent, key, what in (
        (False, "back_s", "a camera comes back: s to its next result"),
        (True, "beside_s", "a camera is away at the start: s to the other's first result"),
        (True, "back_s", "... and s to its own first, once it is there"),
    ):
        ours, theirs = (
            _middle([each[key] for each in outages or () if each["absent"] == absent])
            for outages in (result["outages"], result["peer_outages"])
        )
        yield what, ours, theirs


def _middle(values: list[float | None]) -> float | None:
    """The median; None where one is lacking."""
    there = [value for value in values if value is not None]
    return statistics.median(there) if there and len(there) == len(values) else None


def _cell(value: float | None) -> str:
    return "-" if value is None else _number(value)


def _at(path: str, result: Any) -> float | None:
    """The number at the end of a path of keys and places; None where there is none."""
    for key in path.split("."):
        if isinstance(result, list) and key.isdecimal() and int(key) < len(result):
            result = result[int(key)]
        elif isinstance(result, dict):
            result = result.get(key)
        else:
            return None
    return float(result) if isinstance(result, int | float) else None


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _guard(result: dict[str, Any]) -> str:
    head = (
        "| clip | what changed | s to the alarm | audits | F1 served until then "
        "| ... of the general model | CPU s, without the guard | ... with it |\n"
        "| --- | --- | --- | --- | --- | --- | --- | --- |\n"
    )
    lines = []
    for clip, found in result["clips"].items():
        for row in found["rows"]:
            cells = (
                clip,
                row["change"].replace("_", " "),
                "none" if row["alarm_s"] is None else f"{row['alarm_s']:g}",
                f"{row['audits']}",
                f"{row['f1_served']:.3f}",
                f"{row['f1_general']:.3f}",
                f"{row['cpu_alone_s']:.1f}",
                f"{row['cpu_guarded_s']:.1f}",
            )
            lines.append(f"| {' | '.join(cells)} |\n")
    return head + "".join(lines)


# Tables whose result has another name.
_OF: dict[str, str] = {"networks": "learn", "own": "live-own"}
_SHAPES: dict[str, Callable[[dict[str, Any]], str]] = {
    "guard": _guard,
    "faces": _faces,
    "learn": _learn,
    "networks": _networks,
    "curves": _curves,
    "first_contact": _first_contact,
    "detectors": _detectors,
    "live": _live,
    "floor": _floor,
    "own": _own,
    "gate": _gate,
    "cascade": _cascade,
    "quantization": _quantization,
}


def filled(text: str) -> str:
    """The document with its tables as the results have them."""
    return MARKED.sub(lambda match: match[1] + table(match[2]) + match[3], text)


def main() -> int:
    for document in DOCUMENTS:
        document.write_text(filled(document.read_text()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
