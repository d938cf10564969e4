"""Start Framegate as an add-on of Home Assistant: the options and the MQTT broker become its files.

/config/pipeline.toml stays the truth. At each start, this adds the cameras of the options and the
MQTT sink to it if they are missing, and changes nothing else in it. Addresses with passwords are in
variables of the process only. It uses only the standard library.
"""

from __future__ import annotations

import json
import os
import sys
import tomllib
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

HOME = "HOME_URL"  # variable with the URL of the broker
USUAL_BROKER = "mqtt://core-mosquitto:1883"  # the add-on "Mosquitto broker"
SUPERVISOR = "http://supervisor"
CONFIG, DATA = Path("/config"), Path("/data")
TEMPLATE = Path(__file__).with_name("framegate.toml")
ACCOUNT = '[homeassistant]\nrole = "admin"\ngroups = ["core.ingress"]\n'


class CannotStart(Exception):
    """The add-on cannot start; the message is for its log."""


def camera_variable(name: str) -> str:
    """Return the variable that has the URL of a camera."""
    return f"CAMERA_{name.upper()}_URL"


def broker_url(answer: Mapping[str, Any]) -> str:
    """Return the URL of the broker that the Supervisor describes."""
    scheme = "mqtts" if answer.get("ssl") else "mqtt"
    login = ""
    if answer.get("username"):
        password = quote(str(answer.get("password", "")), safe="")
        login = f"{quote(str(answer['username']), safe='')}:{password}@"
    return f"{scheme}://{login}{answer['host']}:{answer['port']}"


def additions(configured: Mapping[str, Any], cameras: Mapping[str, str], has_broker: bool) -> str:
    """Return the tables that a configuration lacks, as TOML to be put behind it.

    configured  the parsed configuration
    cameras     URL of each camera of the options, by name
    """
    tables = []
    for name in cameras:
        if name not in configured.get("sources", {}):
            tables.append(f'\n[sources.{name}]\nurl_env = "{camera_variable(name)}"\n')
    # A sink without a rule would be refused, because it had nothing to send.
    has_rules = bool(configured.get("events", {}).get("rules"))
    if has_broker and has_rules and "home" not in configured.get("sinks", {}):
        tables.append(f'\n[sinks.home]\nkind = "mqtt"\nurl_env = "{HOME}"\ncommands = true\n')
    return "".join(tables)


def needs_broker(configured: Mapping[str, Any]) -> bool:
    """Return whether a sink of a parsed configuration has the URL of the broker."""
    sinks = configured.get("sinks")
    if not isinstance(sinks, dict):
        return False
    return any(isinstance(sink, dict) and sink.get("url_env") == HOME for sink in sinks.values())


def ask_supervisor(url: str, token: str) -> dict[str, Any] | None:
    """Return the MQTT service of the Supervisor; None if there is none."""
    request = urllib.request.Request(
        f"{url}/services/mqtt", headers={"Authorization": f"Bearer {token}"}
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            answer = json.load(response)
    except urllib.error.HTTPError as error:
        # 400: no add-on provides the service
        print(f"framegate: no MQTT broker from the Supervisor ({error.code})", file=sys.stderr)
        return None
    except (OSError, ValueError) as error:
        raise CannotStart(f"the Supervisor at {url} does not answer: {error}") from None
    data = answer.get("data")
    return data if isinstance(data, dict) and data.get("host") else None


def cameras_of(options: Path) -> dict[str, str]:
    """Return the URLs of the cameras in the options, by name."""
    cameras = json.loads(options.read_text(encoding="utf-8")).get("cameras", [])
    urls = {str(camera["name"]): str(camera["url"]) for camera in cameras}
    if len(urls) < len(cameras):
        raise CannotStart("option cameras: two cameras have the same name; give each its own")
    return urls


def prepare(
    config: Path, data: Path, supervisor: str, token: str
) -> tuple[list[str], dict[str, str]]:
    """Write the files of a run. Return its command and the variables with its addresses.

    config  folder of pipeline.toml, which users of Home Assistant see
    data    folder of the options, the results and the accounts
    """
    cameras = cameras_of(data / "options.json")
    broker = ask_supervisor(supervisor, token)
    file = config / "pipeline.toml"
    text = (file if file.exists() else TEMPLATE).read_text(encoding="utf-8")
    try:
        configured = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise CannotStart(
            f"{file} is not valid TOML: {error}; correct it and start again"
        ) from None
    added = additions(configured, cameras, broker is not None)
    if added or not file.exists():
        text = text.rstrip("\n") + "\n" + added
        try:
            tomllib.loads(text)
        except tomllib.TOMLDecodeError:
            raise CannotStart(
                f"{file}: nothing can be added behind an inline table; write tables as "
                f"[sources.NAME] and [sinks.NAME], or add this yourself:\n{added}"
            ) from None
        beside = file.with_suffix(".new")
        beside.write_text(text, encoding="utf-8")
        beside.replace(file)
    accounts = data / "accounts.toml"
    if not accounts.exists():
        accounts.write_text(ACCOUNT, encoding="utf-8")
        accounts.chmod(0o600)
    variables = {camera_variable(name): url for name, url in cameras.items()}
    if broker is not None:
        variables[HOME] = broker_url(broker)
    elif needs_broker(configured):
        # Without the variable, the run would refuse the sink, and no camera would be watched.
        variables[HOME] = USUAL_BROKER
        print(
            f"framegate: messages wait for a broker at {USUAL_BROKER}: install one and start "
            f"again, or remove the sink with {HOME} from {file}",
            file=sys.stderr,
        )
    # A run without sources starts only in a folder that exists; it then waits for cameras.
    (data / "framegate").mkdir(exist_ok=True)
    command = ["framegate", "run", "-c", str(file), "-d", str(data / "framegate"), "--resume"]
    return command, variables


def main() -> None:
    """Replace this process by the run. SystemExit(2) if it cannot start."""
    token = os.environ.get("SUPERVISOR_TOKEN", "")
    try:
        command, variables = prepare(CONFIG, DATA, SUPERVISOR, token)
    except CannotStart as error:
        print(f"framegate: {error}", file=sys.stderr)
        sys.exit(2)
    kept = {name: value for name, value in os.environ.items() if name != "SUPERVISOR_TOKEN"}
    os.execvpe(command[0], command, {**kept, "HOME": str(DATA), **variables})


if __name__ == "__main__":
    main()
