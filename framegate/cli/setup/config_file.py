"""Write what `framegate init` found: the configuration, its schema, and variables for URLs."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, NamedTuple

from framegate.cli.config import SCHEMA_FILE, schema_text
from framegate.cli.console.terminal import counted
from framegate.cli.setup.probes import described
from framegate.pipeline.config.config import PACKAGED, read_config
from framegate.pipeline.config.read_options import SECRETS, variables_in
from framegate.pipeline.contracts.errors import ConfigFaults, SourceFault
from framegate.pipeline.contracts.redaction import secrets_of
from framegate.pipeline.system.ports import HTTP_DEFAULT
from framegate.pipeline.telemetry.detector_choice import DEFAULT, setting


@dataclass
class Camera:
    """A camera that will be written into the file.

    url       path or URL, with its password
    variable  environment variable that already contains the URL; "" if there is none
    probe     its answer; None if it did not answer
    fault     why it did not answer
    small, small_probe  URL of a smaller stream that the network will look at, "" if there is none,
              and its answer
    events    URL of its ONVIF service, whose events are followed; "" for none
    records   whether to record the large stream
    max_fps   limit of its frames per second, if the machine cannot process all; 0: no limit
    detector  chosen by the size of its picture and the spare CPU time
    because   why this is not the default detector; "" for the default one
    """

    name: str
    url: str
    variable: str = ""
    probe: Any = None
    fault: SourceFault | None = None
    small: str = ""
    small_probe: Any = None
    events: str = ""
    records: bool = False
    max_fps: float = 0.0
    detector: str = DEFAULT
    because: str = ""

    @property
    def looked_at(self) -> Any:
        """Return the answer of the stream that the network will look at."""
        return self.small_probe or self.probe


class Imported(NamedTuple):
    """Settings from the configuration of another system, beside its cameras.

    classes  for [stages.detect]; empty: the default ones
    record   lines of [record]
    tables   lines of further tables
    """

    classes: tuple[str, ...] = ()
    record: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()


NOTHING: Final = Imported()


class Secrets:
    """Variables for URLs that a configuration must not show, and the file of these variables.

    known   variables that the file already has; they stay
    new     variables to add
    """

    def __init__(self, file: Path, known: Mapping[str, str]) -> None:
        self.file = file
        self.known = known
        self.new: dict[str, str] = {}

    def key(self, name: str, url: str, key: str = "url") -> str:
        """Return the line of a table that names a URL.

        name  of the variable, without its ending
        """
        if not secrets_of(url):
            return f"{key} = {json.dumps(url, ensure_ascii=False)}"
        variable = f"{name.upper()}_URL"
        number = 2
        taken = {**os.environ, **self.known, **self.new}
        while taken.get(variable, url) != url:
            variable = f"{name.upper()}_URL_{number}"
            number += 1
        if self.known.get(variable) != url:
            self.new[variable] = url
        return f"{key}_env = {json.dumps(variable)}  # in {self.file.name}"

    def write(self) -> None:
        """Add the new lines to the file, which only its owner may read from now on.

        The values are quoted, as shells, systemd and Docker accept them; a ' in a URL is written as
        %27, which means the same in a URL.
        """
        lines = [f"{name}='{url.replace(chr(39), '%27')}'\n" for name, url in self.new.items()]
        if lines and not _ends_with_newline(self.file):
            lines.insert(0, "\n")
        if lines:
            _write_file(self.file, os.O_APPEND | os.O_CREAT, "".join(lines), is_private=True)


def free_name(text: str, taken: Iterable[str]) -> str:
    """Return a name that is made from another system's name and is not taken."""
    base = re.sub(r"[^a-z0-9_]+", "_", text.lower()).strip("_")[:28] or "camera"
    if not base[0].isalpha():
        base = f"camera_{base}"[:28]
    name = base
    number = 2
    while name in taken:
        name = f"{base}_{number}"
        number += 1
    return name


def written(cameras: Sequence[Camera], secrets: Secrets, imported: Imported = NOTHING) -> str:
    """Return the text of the configuration; adds URLs with passwords to `secrets`."""
    parts = [
        f"#:schema ./{SCHEMA_FILE}",
        f"# Written by framegate init, {version('framegate')}.",
        "# Other keys have their defaults: `framegate config` shows them, and `framegate config",
        "# explain KEY` explains a key. After a change: `framegate check`.",
    ]
    for camera in cameras:
        parts += ["", f"[sources.{camera.name}]", *_lines(camera, secrets)]
    parts += [
        "",
        *_record_lines(cameras, imported.record),
        *_detector_lines(cameras),
        *_class_lines(imported.classes),
        "",
        *imported.tables,
        "# The last 100000 results of each camera are kept; to keep a week instead:",
        "# [store]",
        "# results_age_s = 604800.0",
    ]
    return "\n".join(parts) + "\n"


def _detector_lines(cameras: Sequence[Camera]) -> list[str]:
    """Return the detectors: of all cameras where they agree, otherwise of each that differs from
    the default. The last table is `[stages.detect]`.
    """
    detectors = {camera.detector for camera in cameras}
    if len(detectors) == 1:
        (usual,) = detectors
        lines = [
            f"# {because}" for because in {camera.because: None for camera in cameras} if because
        ]
        return ["[stages.detect]", *lines, setting(usual)]
    lines = []
    for camera in cameras:
        if camera.because:
            model = f"model = {json.dumps(camera.detector)}"
            lines += [f"[models.sources.{camera.name}]", f"# {camera.because}", model, ""]
    return [*lines, "[stages.detect]", setting(DEFAULT)]


def _lines(camera: Camera, secrets: Secrets) -> list[str]:
    lines = []
    if camera.probe is not None:
        lines.append(f"# {described(camera.probe)}")
    elif camera.fault is not None:
        lines.append(f"# It did not answer when this file was written: {camera.fault.reason}")
    if camera.variable:
        lines.append(f"url_env = {json.dumps(camera.variable)}")
    else:
        lines.append(secrets.key(camera.name, camera.url))
    if camera.max_fps:
        lines.append(
            f"frames = {{ max_fps = {camera.max_fps:g} }}  # as much as this machine can process"
        )
    if camera.small:
        if camera.small_probe is not None:
            lines.append(f"# {described(camera.small_probe)}")
        lines.append(secrets.key(f"{camera.name}_small", camera.small, "look_at"))
    if camera.events:
        lines.append(
            f"events = {json.dumps(camera.events)}  # results get the events of the camera"
        )
    return lines


def _record_lines(cameras: Sequence[Camera], more: Sequence[str]) -> list[str]:
    """Return the table that records the cameras that the user chose; a comment for the others with
    two streams if none was chosen.
    """
    names = [camera.name for camera in cameras if camera.records]
    if names:
        return ["[record]", f"sources = {json.dumps(names)}", *more, ""]
    names = [camera.name for camera in cameras if camera.small]
    if not names:
        return []
    lines = ["# To record the streams of url:", "# [record]"]
    return [*lines, f"# sources = {json.dumps(names)}", ""]


def _class_lines(classes: Sequence[str]) -> list[str]:
    if classes:
        return [f"classes = {json.dumps(classes)}"]
    return ["# Classes to detect, instead of the default ones:", '# classes = ["person", "car"]']


def write(
    file: Path,
    cameras: Sequence[Camera],
    imports: Callable[[Secrets], Imported] = lambda _secrets: NOTHING,
) -> None:
    """Write the file, its schema, and the variables. ConfigFaults: then nothing is written.

    imports  returns what is written beside the cameras; it may add URLs with passwords
    """
    secrets = Secrets(file.parent / SECRETS, _variables(file.parent / SECRETS))
    text = written(cameras, secrets, imports(secrets))
    os.environ.update(secrets.new)
    config = read_config(str(file), text)  # checked before anything is written
    secrets.write()
    _write_file(file, os.O_EXCL | os.O_CREAT, text)
    schema = file.parent / SCHEMA_FILE
    if not schema.exists():
        _write_file(schema, os.O_EXCL | os.O_CREAT, schema_text(config))
    print(f"\nWritten: {file} ({counted(len(cameras), 'camera')}), {schema} (for editors)")
    words = ["framegate run"]
    if file != Path(PACKAGED):
        words.append(f"-c {shlex.quote(str(file))}")
    if secrets.new:
        print(f"         {secrets.file}: URLs with passwords; only you can read it")
        words.append(f"--env-file {shlex.quote(str(secrets.file))}")
    print(f"Next:    {' '.join([*words, '-d data'])}")
    print(f"         then look at http://{HTTP_DEFAULT}, or: framegate watch")


def _variables(file: Path) -> dict[str, str]:
    try:
        return variables_in(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ConfigFaults as error:
        raise ConfigFaults([f"{file}: {fault}" for fault in error.faults]) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigFaults([f"{file}: the file cannot be read ({type(error).__name__})"]) from error


def _ends_with_newline(file: Path) -> bool:
    """Return whether a file may be continued with a line; also if it is empty or missing."""
    try:
        return file.read_bytes()[-1:] in (b"", b"\n")
    except FileNotFoundError:
        return True


def _write_file(file: Path, how: int, text: str, *, is_private: bool = False) -> None:
    """Write a text. is_private: only the owner may read the file, also one that existed"""
    mode = 0o666
    if is_private:
        mode = 0o600
    try:
        with open(os.open(file, os.O_WRONLY | how, mode), "w", encoding="utf-8") as opened:
            if is_private:
                os.fchmod(opened.fileno(), mode)
            opened.write(text)
    except OSError as error:
        raise ConfigFaults([f"{file}: {error.strerror}"]) from error
