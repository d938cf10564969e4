"""Convert the settings of a Frigate configuration, beside its cameras, to tables of Framegate."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from framegate.cli.frigate.frigate_file import FrigateCamera, FrigateFile, Layers, listed
from framegate.cli.setup.config_file import Imported, free_name
from framegate.models.coco import LABELS
from framegate.pipeline.contracts.errors import ConfigFaults

Pixels = tuple[int, int]
Corners = list[list[float]]

ALERTS: Final = ("person", "car")  # labels that Frigate alerts about by default
SOUNDS: Final = ("bark", "fire_alarm", "scream", "speech", "yell")  # that it listens to by default
_AUDIOSET: Final = {
    "bark": "Bark",
    "fire_alarm": "Fire alarm",
    "scream": "Screaming",
    "speech": "Speech",
    "yell": "Yell",
}


_NO_ZONE: Final = "there is no such zone, or it is disabled"


class PictureSizes(NamedTuple):
    """Width and height of a camera's pictures: of the large one, and of the one looked at."""

    large: Pixels
    looked_at: Pixels


def tables_of(frigate: FrigateFile, sizes: Mapping[str, PictureSizes], mqtt: str) -> Imported:
    """Return what follows from the file beside its cameras. ConfigFaults with all faults.

    sizes  of the pictures, by camera; those of cameras that did not answer are missing
    mqtt   the line of the sink that contains the broker's URL; "" without a broker
    """
    try:
        return _Conversion(frigate, sizes).imported(mqtt)
    except ConfigFaults as error:
        named = [f"{frigate.file}: ".join(["", fault]) for fault in error.faults]
        raise ConfigFaults(named) from None


class _Conversion:
    def __init__(self, frigate: FrigateFile, sizes: Mapping[str, PictureSizes]) -> None:
        self.frigate = frigate
        self.file = frigate.file
        self.cameras = frigate.cameras
        self.read = frigate.read
        self.sizes = sizes
        self.faults: list[str] = []

    def imported(self, mqtt: str) -> Imported:
        classes: dict[str, None] = {}
        for camera in self.cameras:
            classes.update(dict.fromkeys(_tracked(camera.keys)))
            for label in listed(camera.keys.below("objects").get("track", ())):
                if label not in LABELS:
                    self.frigate.skip(f"objects.track: {label}", "no shipped network knows it")
        tables = [
            *self._rules(),
            *self._filters(),
            *self._gate_masks(),
            *self._sounds(),
        ]
        if mqtt:
            tables += ["[sinks.mqtt]", 'kind = "mqtt"', mqtt, ""]
        record = self._record()
        if self.faults:
            raise ConfigFaults(self.faults)
        return Imported(tuple(classes), tuple(record), tuple(tables))

    # -- Areas and rules.

    def _rules(self) -> list[str]:
        lines: list[str] = []
        taken: set[str] = set()
        for camera in self.cameras:
            lines += self._camera_rules(camera, taken)
        return lines

    def _camera_rules(self, camera: FrigateCamera, taken: set[str]) -> list[str]:
        """Return the areas of a camera, and a rule for each kind of review item of each.

        taken  names of areas and rules; adds to them
        """
        zones = camera.keys.below("zones")
        lines: list[str] = []
        areas: dict[str, tuple[str, ...]] = {}  # lines of a rule, by zone
        for zone in zones.names():
            keys = zones.below(zone)
            if not keys.get("enabled", True):
                continue
            points = self._polygon(keys, "coordinates", camera, self.sizes.get(camera.name))
            name = free_name(zone, taken)
            taken.add(name)
            lines += [f"[events.areas.{name}]", f'source = "{camera.name}"']
            lines += [f"points = {_points(points)}", ""]
            areas[zone] = (f'area = "{name}"', *_zone_lines(keys))
        review = camera.keys.below("review")
        required = _required_zones(camera)
        for severity, labels in _reviewed(review, _tracked(camera.keys), required).items():
            wanted = required[severity]
            places = {zone: areas[zone] for zone in wanted if zone in areas}
            if not wanted:
                places = {"": (f'source = "{camera.name}"',)}
            for zone in wanted:
                if zone not in areas:
                    self.frigate.skip(f"{camera.name}: required_zones: {zone}", _NO_ZONE)
            for zone, place in places.items():
                own = labels
                if objects := listed(zones.below(zone).get("objects", ())):
                    own = [label for label in labels if label in _coco(objects)]
                if own:
                    name = free_name(f"{zone or camera.name}_{severity}", taken)
                    taken.add(name)
                    lines += [f"[events.rules.{name}]", 'when = "inside"', *place]
                    lines += [f"labels = {json.dumps(own)}", f'severity = "{severity}"']
                    lines += [*_clip(camera, severity), ""]
        return lines

    def _polygon(
        self, keys: Layers, key: str, camera: FrigateCamera, size: PictureSizes | None
    ) -> Corners:
        """Return a polygon, 0 to 1 of the picture; notes a fault and returns [] if there is none.

        size  of the pictures; None if it is not known
        """
        text = keys.get(key)
        points = _pairs(text)
        where = f"{keys.place(key)} = {text!r}"
        if len(points) < 3:
            self.faults.append(f"{where}: must be three or more points x,y,x,y,...")
            return []
        if max(max(point) for point in points) <= 1.0:
            return points
        detect = camera.keys.below("detect")
        width, height = detect.number("width"), detect.number("height")
        if not (width and height) and size is not None:
            width, height = size.looked_at
        if not (width and height):
            self.faults.append(
                f"{where}: these are pixels, and the size of the picture is not known, because the "
                "camera did not answer; add detect.width and detect.height of this camera"
            )
            return []
        shares = [[round(x / width, 4), round(y / height, 4)] for x, y in points]
        return [[min(1.0, x), min(1.0, y)] for x, y in shares]

    # -- Filters and masks.

    def _filters(self) -> list[str]:
        """Return the object filters; equal ones of several cameras are one."""
        sources: dict[tuple[str, tuple[str, ...]], list[str]] = {}
        for camera in self.cameras:
            for key in self._camera_filters(camera):
                sources.setdefault(key, []).append(camera.name)
        taken: set[str] = set()
        written: list[str] = []
        for (base, lines), names in sources.items():
            name = free_name(base, taken)
            taken.add(name)
            written.append(f"[filters.{name}]")
            if len(names) < len(self.cameras):
                written.append(f"sources = {json.dumps(names)}")
            written += [*lines, ""]
        return written

    def _camera_filters(self, camera: FrigateCamera) -> list[tuple[str, tuple[str, ...]]]:
        """Return the name and the lines of each filter of a camera."""
        size = self.sizes.get(camera.name)
        objects = camera.keys.below("objects")
        found: list[tuple[str, tuple[str, ...]]] = []
        for polygon in self._masks(objects, camera, size):
            found.append((f"{camera.name}_mask", (f"area = {_points(polygon)}",)))
        filters = objects.below("filters")
        for label in filters.names():
            if not _coco([label]):
                continue
            labels = f"labels = {json.dumps(_coco([label]))}"
            if limits := _limits(filters.below(label)):
                found.append((label, (labels, *limits)))
            for polygon in self._masks(filters.below(label), camera, size):
                found.append((f"{camera.name}_{label}", (labels, f"area = {_points(polygon)}")))
        return found

    def _masks(
        self, keys: Layers, camera: FrigateCamera, size: PictureSizes | None
    ) -> list[Corners]:
        """Return the polygons of `mask`: one text, a list of texts, or tables with names."""
        mask = keys.get("mask")
        if isinstance(mask, Mapping):
            named = keys.below("mask")
            tables = [named.below(name) for name in named.names()]
            on = [table for table in tables if table.get("enabled", True)]
            return [self._polygon(table, "coordinates", camera, size) for table in on]
        texts = [mask] if _pairs(mask) else listed(mask)
        polygons = []
        for text in texts:
            one = Layers([(keys.place("mask").removesuffix(".mask"), {"mask": text})], self.read)
            polygons.append(self._polygon(one, "mask", camera, size))
        return polygons

    def _gate_masks(self) -> list[str]:
        lines = []
        for camera in self.cameras:
            size = self.sizes.get(camera.name)
            motion = camera.keys.below("motion")
            if motion.get("mask") is None:
                continue
            if size is None:
                key = f"{camera.name}: motion.mask"
                self.frigate.skip(key, "it needs the size of the picture; the camera is off")
                continue
            width, height = size.large
            polygons = []
            for polygon in self._masks(motion, camera, size):
                polygons.append([[round(x * width), round(y * height)] for x, y in polygon])
            lines.append(f"{camera.name} = {json.dumps(polygons)}")
        if not lines:
            return []
        return ["[gate.masks]", *lines, ""]

    # -- Recordings and sounds.

    def _record(self) -> list[str]:
        """Return the lines of [record] for the longest times of any recorded camera."""
        days, clip_days = [0.0], [0.0]
        for camera in self.cameras:
            if not camera.records:
                continue
            record = camera.keys.below("record")
            for kind in ("retain", "continuous", "motion"):
                days.append(record.below(kind).number("days"))
            for kind in ("alerts", "detections"):
                clip_days.append(record.below(kind).below("retain").number("days"))
            # Before Frigate 0.15, and before 0.12.
            clip_days.append(record.below("events").below("retain").number("default"))
            days.append(record.number("retain_days"))
        lines = []
        if max(days):
            lines.append(f"days = {max(days)}")
        elif any(camera.records for camera in self.cameras):
            lines.append("days = 1.0  # Frigate kept clips only; here they are parts of recordings")
        if max(clip_days):
            lines.append(f"clip_days = {max(clip_days)}")
        return lines

    def _sounds(self) -> list[str]:
        heard: dict[str, list[str]] = {}
        taken: set[str] = set()
        rules = []
        for camera in self.cameras:
            audio = camera.keys.below("audio")
            if not audio.get("enabled", False):
                continue
            wanted = listed(audio.get("listen", SOUNDS))
            labels = [_AUDIOSET[name] for name in wanted if name in _AUDIOSET]
            for name in wanted:
                if name not in _AUDIOSET:
                    reason = "add the label of AudioSet to the rule that hears, see docs/sound.md"
                    self.frigate.skip(f"audio.listen: {name}", reason)
            if not labels:
                continue
            heard[camera.name] = labels
            name = free_name(f"{camera.name[:22]}_heard", taken)
            taken.add(name)
            rules += [f"[events.rules.{name}]", 'when = "state"', 'state = "heard"']
            rules += [f'source = "{camera.name}"', f"labels = {json.dumps(labels)}"]
            rules += [f"until_s = {audio.number('max_not_heard', 30.0)}", ""]
        if not heard:
            return []
        return ["[sound]", f"sources = {json.dumps(list(heard))}", "", *rules]


# -- Values.


def _tracked(keys: Layers) -> list[str]:
    return _coco(listed(keys.below("objects").get("track", ["person"])))


def _coco(labels: Iterable[str]) -> list[str]:
    """Return the labels that the shipped networks know. Frigate calls a truck a car."""
    known = []
    for label in labels:
        if label in LABELS:
            known.append(label)
        if label == "car":
            known.append("truck")
    return list(dict.fromkeys(known))


def _required_zones(camera: FrigateCamera) -> dict[str, list[str]]:
    """Return the zones in which an object is an alert or a detection. Empty: in the whole picture.

    Before Frigate 0.14, record.events had those of the alerts.
    """
    before = camera.keys.below("record").below("events").get("required_zones", ())
    review = camera.keys.below("review")
    zones = {
        severity: listed(review.below(f"{severity}s").get("required_zones", ()))
        for severity in ("alert", "detection")
    }
    zones["alert"] = zones["alert"] or listed(before)
    return zones


def _reviewed(
    review: Layers, tracked: Sequence[str], required: Mapping[str, Sequence[str]]
) -> dict[str, list[str]]:
    """Return the labels of alerts, and of detections that are no alerts."""
    reviewed: dict[str, list[str]] = {}
    alerts = review.below("alerts")
    if alerts.get("enabled", True):
        labels = _coco(listed(alerts.get("labels", ALERTS)))
        reviewed["alert"] = [label for label in labels if label in tracked]
    detections = review.below("detections")
    if detections.get("enabled", True):
        labels = _coco(listed(detections.get("labels", tracked)))
        others = [label for label in labels if label in tracked]
        if not required["alert"]:
            others = [label for label in others if label not in reviewed.get("alert", ())]
        reviewed["detection"] = others
    return reviewed


def _zone_lines(keys: Layers) -> list[str]:
    lines = []
    if (seconds := keys.number("loitering_time")) > 0:
        lines.append(f"for_s = {seconds}")
    if (frames := int(keys.number("inertia"))) > 0:
        lines.append(f"min_sightings = {frames}")
    return lines


def _clip(camera: FrigateCamera, severity: str) -> list[str]:
    if not camera.records:
        return []
    record = camera.keys.below("record")
    kind, old = record.below(f"{severity}s"), record.below("events")  # before Frigate 0.15
    before, after = (
        kind.number(key, old.number(key, 5.0)) for key in ("pre_capture", "post_capture")
    )
    return [f"clip = {{ before_s = {before}, after_s = {after} }}"]


def _limits(keys: Layers) -> list[str]:
    """Return the limits of the shape. Frigate divides the width by the height."""
    lines = []
    if ratio := keys.number("max_ratio"):
        lines.append(f"min_aspect = {max(0.01, round(1 / ratio, 4))}")
    if ratio := keys.number("min_ratio"):
        lines.append(f"max_aspect = {min(100.0, round(1 / ratio, 4))}")
    return lines


def _pairs(value: Any) -> Corners:
    """Return the points of "x,y,x,y" or of a list of such numbers; [] if it is something else."""
    if isinstance(value, str):
        value = value.split(",")
    if not isinstance(value, list):
        return []
    try:
        numbers = [float(number) for number in value]
    except (TypeError, ValueError):
        return []
    if len(numbers) % 2 or not all(map(math.isfinite, numbers)):
        return []
    return [[x, y] for x, y in zip(numbers[::2], numbers[1::2], strict=True)]


def _points(polygon: Corners) -> str:
    return json.dumps(polygon)
