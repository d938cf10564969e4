"""Every configuration that a user can choose: the changes to the default configuration."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from benchmarks.harness.configuration import Tables
from benchmarks.truth import labels
from framegate.models import coco
from framegate.models.detector import policy

DEFAULT: Final = "default"
GATE_OFF: Final = "gate-off"
WINDOWS_OFF: Final = "windows-off"
ESCALATE: Final = "escalate"
HEAVY: Final = "heavy"
_DETECT: Final = "stages.detect"
SIDES: Final = (320, 352, 512, 640)  # other longer sides of the input of the default network
LARGE_SIDES: Final = (960, 1280)  # for pictures that are as large

LearnCommand = Literal["tune", "train"]


class UnknownConfiguration(Exception):
    """A name that is none of the configurations."""


@dataclass(frozen=True)
class Configuration:
    """A configuration.

    changes  keys that differ from the default configuration, by table
    learns   command that makes the detector from footage of the clip; None: it is shipped
    side     shortest longer side of a picture, pixels; smaller pictures are left out
    """

    name: str
    changes: Tables = field(default_factory=dict)
    learns: LearnCommand | None = None
    side: int = 0


def configurations(names: Sequence[str] = ()) -> list[Configuration]:
    """Return all configurations, the default first; `names` selects some.

    Raises UnknownConfiguration.
    """
    known = {configuration.name: configuration for configuration in _all()}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UnknownConfiguration(
            f"--configurations {' '.join(unknown)}: unknown; must be any of {', '.join(known)}"
        )
    return [known[name] for name in known if not names or name in names]


def _all() -> Iterator[Configuration]:
    gate_off: Tables = {"gate": {"mode": "off"}}
    yield Configuration(DEFAULT)
    yield Configuration(GATE_OFF, gate_off)
    yield Configuration(WINDOWS_OFF, {"stages.windows": {"decides": False}})
    network, _ = policy.load("light").parts[0]
    for side in SIDES:
        yield _with_detector(f"{network}-{side}")
    for side in LARGE_SIDES:
        yield replace(_with_detector(f"{network}-{side}"), side=side)
    for name in _shipped_detectors():
        yield _with_detector(name)
    yield Configuration(ESCALATE, {"escalate": {"place": "local"}})
    yield _with_detector(HEAVY)
    yield Configuration(f"{HEAVY}-{GATE_OFF}", {**_with_detector(HEAVY).changes, **gate_off})
    yield Configuration("tuned", learns="tune")
    yield Configuration("trained", learns="train")


def for_groups(changes: Tables, groups: Sequence[str]) -> Tables | None:
    """Return the changes with the classes that a clip needs beyond the default ones.

    groups  labelled in the clip, as `labels.group` names them

    None: the detector of the configuration does not know one of these classes.
    """
    usual = {labels.group(label) for label in coco.CAMERA}
    more = [group for group in groups if group not in usual]
    if not more:
        return changes
    detect = dict(changes.get(_DETECT, {}))
    known = policy.load(detect.get("detector", "light")).labels
    if not set(more) <= set(known):
        return None
    detect["classes"] = [*(label for label in coco.CAMERA if label in known), *more]
    return {**changes, _DETECT: detect}


def _with_detector(detector: str) -> Configuration:
    return Configuration(detector, {_DETECT: {"detector": detector}})


def _shipped_detectors() -> list[str]:
    """Return the detectors of policy.toml that no other configuration here contains."""
    names = tomllib.loads(policy.POLICY.read_text(encoding="utf-8"))
    return [name for name in names if name not in ("light", HEAVY)]
