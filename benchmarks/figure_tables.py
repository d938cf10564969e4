"""Tables of the documents, each made from one result."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from benchmarks.figure_rows import ROWS

# Members of detectors in `detectors.json`, in the order of the table. The first is the default.
SHOWN = (
    "nanodet-plus-416",
    "nanodet-plus-320",
    "nanodet-plus-352",
    "nanodet-plus-512",
    "nanodet-plus-640",
    "surveillance-448",
    "surveillance-large-864",
    "heavy",
)


def listed(name: str, result: dict[str, Any]) -> str:
    """Return a table of single figures: text and value with its unit."""
    rows = [
        (text, f"{number(value)} {unit}".strip())
        for text, key, unit in ROWS[name]
        if (value := _at(key, result)) is not None
    ]
    return _table("figure | measured", rows)


def _table(columns: str, rows: Iterable[Iterable[str]]) -> str:
    """Return a table. columns: its head, with ` | ` between the columns"""
    rule = " --- |" * (columns.count(" | ") + 1)
    lines = [f"| {' | '.join(cells)} |\n" for cells in rows]
    return "".join([f"| {columns} |\n|{rule}\n", *lines])


def _rows_of(items: Iterable[dict[str, Any]], keys: Sequence[str]) -> Iterator[list[str]]:
    """Yield the cells of each item: its words as they are, its figures as they are shown."""
    for item in items:
        yield [_cell(item.get(key)) for key in keys]


def _truth(result: dict[str, Any]) -> str:
    """Return the rows by clip; clips that report come first."""
    rows = []
    for row in sorted(result["rows"], key=lambda row: row["role"] == "chooses"):
        clip = row["clip"]
        if row["role"] == "chooses":
            clip = f"{clip} (chooses)"
        cells = [clip, row["configuration"]]
        cells += [_fixed(row[key]) for key in ("precision", "recall")]
        cells += [_with_interval(row, key) for key in ("f1", "f1_gain")]
        cells += [_fixed(row[key]) for key in ("ap", "hota")]
        cells += [_cell(row[key]) for key in ("id_switches", "cpu_ms")]
        cells += [_fixed(row[key]) for key in ("f1_looked", "f1_carried")]
        rows.append(cells)
    return _table(
        "clip | configuration | precision | recall | F1, 95 % | to the default, 95 % | AP | HOTA "
        "| ID switches | CPU ms | F1 with a look | F1 without",
        rows,
    )


def _with_interval(row: dict[str, Any], key: str) -> str:
    """Return the figure of this key with its interval, where there is one."""
    sign = "+" if key.endswith("gain") else ""
    middle, low, high = (row[name] for name in (key, f"{key}_low", f"{key}_high"))
    if low is None:
        return _fixed(middle, sign)
    return f"{_fixed(middle, sign)}, {_fixed(low, sign)} to {_fixed(high, sign)}"


def _fixed(value: float | None, sign: str = "") -> str:
    return "-" if value is None else f"{value:{sign}.3f}"


def _trackers(result: dict[str, Any]) -> str:
    """Return the rows by clip; clips with labelled tracks come first, then those that report.

    The last rows have the mean F1 of the clips that report.
    """
    rows = []
    for row in sorted(result["rows"], key=_order_of_trackers):
        clip = row["clip"]
        if row["role"] == "chooses":
            clip = f"{clip} (chooses)"
        cells = [clip, row["tracker"], row["settings"]]
        keys = ("precision", "recall", "f1", "hota", "idf1")
        cells += [_fixed(row[key]) for key in keys]
        cells += [_cell(row[key]) for key in ("id_switches", "jumps")]
        rows.append(cells)
    f1s: dict[tuple[str, str], list[float]] = {}
    for row in result["rows"]:
        if row["role"] == "reports":
            f1s.setdefault((row["tracker"], row["settings"]), []).append(row["f1"] or 0.0)
    for side, values in f1s.items():
        mean = sum(values) / len(values)
        rows.append(["mean of those that report", *side, "-", "-", _fixed(mean), *"-----"])
    return _table(
        "clip | tracker | settings | precision | recall | F1 | HOTA | IDF1 | ID switches | jumps",
        rows,
    )


def _order_of_trackers(row: dict[str, Any]) -> tuple[bool, bool]:
    return row["hota"] is None, row["role"] == "chooses"


def _detectors(result: dict[str, Any]) -> str:
    # The last precision of a detector has weights in 8 bits.
    found = {model["name"]: model for model in result["models"]}
    rows = []
    for name in SHOWN:
        if name in found:
            model = found[name]
            sets = [model["sets"][which] for which in ("coco128", "coco-val2017-a")]
            maps = [figures.get(key) for figures in sets for key in ("map", "three")]
            times = (f"{model['ms_1t']:.0f}", f"{model['ms_2t']:.0f}")
            ratio = _cell(model.get("ratio_1t"))
            rows.append((name, model["precision"], *map(_fixed, maps), *times, ratio))
    return _table(
        "detector | precision | mAP coco128 | of 3 classes | mAP val2017 part | of 3 classes "
        "| ms, 1 thread | 2 threads | time, relative to the default",
        rows,
    )


def _live(result: dict[str, Any]) -> str:
    keys = ("dropped", "p50_ms", "p99_ms", "cpu_cores", "rss_mb")
    table = _table(
        "cameras | height | dropped | p50 ms | p99 ms | CPU cores | MB "
        "| Roboflow: dropped | p50 ms | p99 ms | CPU cores | MB",
        _rows_of(result["points"], ("cameras", "height", *keys, *(f"peer_{key}" for key in keys))),
    )
    return table + "".join(
        f"\nMost cameras with no dropped frame and p99 below 500 ms, {scene} scene: "
        f"{held['360']} with 360 rows, {held['1080']} with 1080.\n"
        for scene, held in (
            ("busy", result.get("cameras_held")),
            ("quiet", result.get("quiet_held")),
        )
        if held
    )


def _floor(result: dict[str, Any]) -> str:
    rows = []
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
        rows.append(cells)
    table = _table(
        "scene | rows | frames/s | cameras | CPU ms per frame | before | floor | ratio "
        "| floor at that rate | ratio | switches | system calls | store commands | p50 ms | p99 ms",
        rows,
    )
    return table + _parts(result["points"])


def _parts(points: list[dict[str, Any]]) -> str:
    """CPU of the job alone by part, for each of what the cameras show."""
    seen = {f"{one['load']}, {one['height']} rows, {one['fps']:g}/s": one for one in points}
    names = list(points[0]["parts_ms"])
    rows = []
    for what, point in seen.items():
        parts = (number(point["parts_ms"][name]) for name in names)
        rows.append([what, _cell(point.get("looked_alone")), *parts])
    head = f"CPU ms per frame of the work alone | share of frames looked at | {' | '.join(names)}"
    return "\n" + _table(head, rows)


def _workers_cpu(cpu_by_process: dict[str, float]) -> float:
    """Of the worker that hosts detect, or of all shards."""
    return sum(s for who, s in cpu_by_process.items() if who == "infer" or who.startswith("shard-"))


def _own(result: dict[str, Any]) -> str:
    rows = []
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
        rows.append(cells)
    return _table(
        "detector | height | published | dropped | CPU ms per frame | ... of the worker", rows
    )


def _gate(result: dict[str, Any]) -> str:
    keys = ("clip", "group", "share", "f1", "ceiling", "rival_f1", "event_recall", "cpu_ratio")
    return _table(
        "clip | group | pixels | F1 | ceiling | subsampling | events found | CPU",
        _rows_of(result["clips"], keys),
    )


def _cascade(result: dict[str, Any]) -> str:
    keys = (
        "clip",
        "group",
        "f1_light",
        "f1",
        "gap_closed",
        "escalated_share",
        "cpu_ratio_heavy",
        "mean_ms",
        "p99_ms",
    )
    return _table(
        "clip | group | F1 light | F1 | gap closed | escalated | CPU against heavy | mean ms "
        "| p99 ms",
        _rows_of(result["clips"], keys),
    )


def _quantization(result: dict[str, Any]) -> str:
    rows = [
        (
            model["name"],
            f"{model['speedup']:.2f}",
            f"{model['map_f32']:.3f}",
            f"{model['map_int8']:.3f}",
            f"{model['loss_low']:.3f} to {model['loss_high']:.3f}",
            f"{model['weight_ratio']:.3f}",
        )
        for model in result["models"]
    ]
    return _table(
        "network | faster than f32 | mAP f32 | mAP INT8 | loss, 95 % | weights against f32", rows
    )


def _faces(result: dict[str, Any]) -> str:
    rows = []
    roles = {"judged": "judge", "chosen": "chose the threshold"}
    for row in sorted(result["recall"], key=lambda row: row["set"] == "chosen"):
        interval = f"{row['low']:.2f} to {row['high']:.2f}"
        shares = (f"{row['share']:.2f}", interval)
        rows.append((row["height"], roles[row["set"]], f"{row['faces']}", *shares))
    cost = ", ".join(f"{one['cpu_ms']:.0f} ms at {one['width']}" for one in result["cpu"])
    nothing = result["curve"][0]["boxes_of_nothing"]
    table = _table("face's height | pictures that | faces | blurred | 95 %", rows)
    return (
        f"{table}\nCPU of a picture by its width: {cost}.\nBlurred and no face, in a photograph "
        f"without people: {nothing:.1f}.\n"
    )


def _learn(result: dict[str, Any]) -> str:
    rows = []
    for clip in result["clips"]:
        low, high = clip["interval"]
        least, most = clip["gain_shipped_95"]
        refused = " (refused)" if clip["refused"] else ""
        by_labels = "-"
        if labels := clip.get("labels"):
            lowest, highest = labels["gain_95"]
            by_labels = f"{labels['gain']:+.3f}, {lowest:+.3f} to {highest:+.3f}"
        cells = (
            f"{clip['clip']}{refused}",
            by_labels,
            clip.get("decided_by", "teacher"),
            f"{clip['boxes']}",
            f"{clip['f1_shipped']:.3f}",
            f"{clip['f1_tuned']:.3f}, {low:.3f} to {high:.3f}",
            f"{clip['gain_shipped']:+.3f}, {least:+.3f} to {most:+.3f}",
            f"{clip['cpu_minutes_tuned']:.1f}",
        )
        rows.append(cells)
    return _table(
        "clip | gain by labels, 95 % | decided by | objects of the teacher | agreement: as it "
        "ships | tuned, 95 % | gain, 95 % | CPU min",
        rows,
    )


def _federated(result: dict[str, Any]) -> str:
    """Return the gains over own verdicts alone, by camera, with none and with five of them."""
    sides = ("shared", "pooled", "decided")
    groups = [(f"{name}, {row['role']}", row) for name, row in result["cameras"].items()]
    groups.append(("mean", result["mean"]))
    rows = []
    for about, row in groups:
        for verdicts in ("0_verdicts", "5_verdicts"):
            figures = row[verdicts]
            cells = [about, verdicts[0], _fixed(figures["local"]["ap"])]
            gains = [figures[side]["gain"] for side in sides]
            gains += [row.get(key) for key in ("own_all", "own_shared")]
            cells += [_gained(gain) for gain in gains]
            rows.append(cells)
    return _table(
        "camera | own verdicts | AP, own verdicts alone | with private files, 95 % | with all "
        "verdicts of the others, 95 % | decided by own verdicts, 95 % | all own verdicts, over the "
        "score, 95 % | ... without place and height, 95 %",
        rows,
    )


def _policy(result: dict[str, Any]) -> str:
    """Return the policies, and the oracle that has as few wrong frames as the one that ships."""
    rows = []
    for each in result["rivals"]:
        low, high = each["asked_interval"]
        less, more = each["lead_interval"]
        cells = [each["policy"], _cell(each["setting"])]
        cells += [f"{each['asked']:.1%}, {low:.1%} to {high:.1%}", f"{each['calm']:.1%}"]
        cells.append(f"{each['lead']:.1%}, {less:.1%} to {more:.1%}")
        cells += [f"{each['wrong']:.2%}", f"{each['certified']:.0%}"]
        rows.append(cells)
    rows.append(["oracle", "-", f"{result['oracle']['asked']:.1%}", *"----"])
    policies = _table(
        "policy | setting | frames asked about, 95 % | without alarms | the fixed doubt asks more, "
        "95 % | wrong | hours certified",
        rows,
    )
    worlds = _table(
        "simulated world | periods | broke the promise | certified | both",
        (
            [each["world"], str(each["periods"])]
            + [f"{each[key]:.1%}" for key in ("broken", "certified", "false")]
            for each in result["false"]
        ),
    )
    return f"{policies}\n{worlds}"


def _gained(gain: list[float] | None) -> str:
    if gain is None:
        return "-"
    mean, low, high = gain
    return f"{mean:+.3f}, {low:+.3f} to {high:+.3f}"


def _networks(result: dict[str, Any]) -> str:
    """Each network of a clip's own."""
    rows = []
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
            rows.append(cells)
    table = _table(
        "clip | network | F1 | over 416 tuned, 95 % | over 320, 224 tuned | time in f32, bf16, "
        "of 416 | CPU min | photographs: own classes, before",
        rows,
    )
    trained = [(size, seeds) for size, seeds in result["networks"].items() if any(seeds.values())]
    so_far = "; ".join(
        f"{size}: {sum(map(bool, seeds.values()))} of 3 seeds, "
        f"{len(set().union(*seeds.values()))} of {len(result['clips'])} clips"
        for size, seeds in trained
    )
    return f"{table}\nSo far {so_far}.\n{_people(result)}"


def _curves(result: dict[str, Any]) -> str:
    """Points that were trained, by what is changed."""
    rows = []
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
            rows.append(cells)
    return _table(
        "clip | pictures that teach | steps | input | F1 | ... of the light detector, tuned to "
        "them | CPU min of training",
        rows,
    )


def _people(result: dict[str, Any]) -> str:
    """What people's labels say of who shows people, where a clip has labels."""
    rows = []
    for clip in result["clips"]:
        own = {one["size"]: one["people"] for one in clip["networks"] or () if one["people"]}
        for who, said in {**clip["people"], **own}.items():
            figures = (said.get(key) for key in ("precision", "recall", "f1", "ap"))
            cells = ("-" if one is None else f"{one:.3f}" for one in figures)
            rows.append([_WHO.get(who, who), *cells])
    table = _table("people of PETS 2009, against labels | precision | recall | F1 | AP", rows)
    return f"\n{table}"


_WHO = {"general": "416 at .31", "shipped": "416 as it ships", "tuned": "416 tuned"}


def _first_contact(result: dict[str, Any]) -> str:
    keys = ("task", "lines", "seconds", "peer_lines", "peer_lines_server", "peer_seconds")
    tasks = _table(
        "task | lines | s to the first result | Roboflow: lines in Python | lines by its server "
        "| s to the first result",
        _rows_of(result["tasks"], keys),
    )
    beside = [(what, _cell(ours), _cell(theirs)) for what, ours, theirs in _beside(result)]
    return f"{tasks}\n{_table('measure | Framegate | Roboflow', beside)}"


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


def _cell(value: str | float | None) -> str:
    if isinstance(value, str):
        return value
    return "-" if value is None else number(value)


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


def number(value: float) -> str:
    """Return the value with three significant digits, without decimals from 100 on."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


# Tables that are no list of single figures.
SHAPES: dict[str, Callable[[dict[str, Any]], str]] = {
    "faces": _faces,
    "federated": _federated,
    "learn": _learn,
    "networks": _networks,
    "policy": _policy,
    "curves": _curves,
    "first_contact": _first_contact,
    "truth": _truth,
    "trackers": _trackers,
    "detectors": _detectors,
    "live": _live,
    "floor": _floor,
    "own": _own,
    "gate": _gate,
    "cascade": _cascade,
    "quantization": _quantization,
}
