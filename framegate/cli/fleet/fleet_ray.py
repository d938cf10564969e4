"""`framegate fleet head` and `join`: let Ray keep the slots of a fleet alive on several hosts.

Each slot of the plan is a detached actor of Ray, which keeps one process alive where Ray places it.
Secrets never pass through Ray: an actor has the name of its slot only, and each host adds its own
options. Ray is imported only here, in functions, so only this file needs the extra `fleet`.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import msgspec

from framegate.cli.fleet.hosted import END_S, HOST, HostedProcess, HostOptions, actors_of
from framegate.pipeline.config.store import BY_NAME, url_said
from framegate.pipeline.contracts.errors import ConfigFaults, Exit, FramegateError
from framegate.pipeline.fleet.fleet_store import FleetStore
from framegate.pipeline.system.logs import set_up_logging, to_user
from framegate.pipeline.system.machine import cores
from framegate.pipeline.system.ports import own_address
from framegate.pipeline.system.process import die_with_parent_of

# A host without power is dead after 13 s: 5 checks of 2 s, one each second. A host keeps its slots
# for an hour without a head: the default is a minute. Framegate bounds its memory itself, so Ray
# must not kill at 95 %.
SETTINGS: Final = {
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_external_storage_namespace": "framegate",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "5",
    "RAY_gcs_rpc_server_reconnect_timeout_s": "3600",
    "RAY_memory_monitor_refresh_ms": "0",
    "RAY_enable_metrics_collection": "0",
    "RAY_worker_niceness": "1",  # below Ray's own processes
}
_MEMORY: Final = "--object-store-memory=80000000"  # nothing is stored there; it is Ray's minimum
_DRIVER: Final = (
    "import sys; import framegate.cli.fleet.fleet_ray as ray; ray.keep_actors(*sys.argv[1:])"
)
_MOST_HEAVY, _MOST_GPUS = 1000, 64
_LOOK_S: Final = 2.0  # between two looks at the plan
_DRIVER_S: Final = 90.0  # longest life of a process that asks Ray for actors


def start_head(parsed: argparse.Namespace) -> Exit:
    """Start Ray's head on this host, and keep an actor for each slot of the plan until SIGTERM."""
    url = url_said(parsed.store)
    assert url is not None
    state = urlsplit(url)
    if state.scheme not in ("redis", "rediss"):
        raise ConfigFaults(
            ["--store: must be redis:// or rediss://, else a lost head ends all slots"]
        )
    _prepare("--heavy", parsed.heavy, _MOST_HEAVY)
    with closing(FleetStore(url)) as store:
        store.check_ray()  # also that it answers
    os.environ["RAY_REDIS_ADDRESS"] = f"{state.scheme}://{state.hostname}:{state.port or 6379}"
    os.environ.pop(parsed.store.removeprefix(BY_NAME), None)
    follows = (url, parsed.address, parsed.heavy)
    threading.Thread(target=_follow, args=follows, daemon=True).start()
    host, _, port = parsed.address.rpartition(":")
    words = ["--head", f"--node-ip-address={host}", f"--port={port}", "--num-cpus=0"]
    words += ["--no-monitor", "--include-dashboard=false"]
    user, password = unquote(state.username or ""), unquote(state.password or "")
    words += [f"--redis-username={user}", f"--redis-password={password}"]
    return _run_ray(words, password)


def join(parsed: argparse.Namespace) -> Exit:
    """Offer this host to the head of a fleet until SIGTERM."""
    host, _, _ = parsed.address.rpartition(":")
    if not parsed.store.startswith(BY_NAME):
        raise ConfigFaults(["--store: must be env:NAME, so that Ray never has the URL"])
    if not os.access(parsed.variables, os.R_OK):
        raise ConfigFaults([f"--env-file {parsed.variables}: this file cannot be read"])
    _prepare("--gpu", parsed.gpu, _MOST_GPUS)
    data = parsed.data.resolve()
    data.mkdir(parents=True, exist_ok=True)
    own = shlex.split(parsed.options)
    host_options = HostOptions(str(data), parsed.store, str(parsed.variables.resolve()), own)
    os.environ[HOST] = msgspec.json.encode(host_options).decode()
    address = own_address(host)
    if host.startswith("127."):  # a head and hosts on one machine, to try it
        address = host
    words = [f"--address={parsed.address}", f"--node-ip-address={address}"]
    resources = json.dumps({"gpu": parsed.gpu})
    return _run_ray([*words, f"--num-cpus={cores()}", f"--resources={resources}"])


def _prepare(option: str, number: int, most: int) -> None:
    """Set the settings of Ray that are ours. ConfigFaults for an option, or without Ray."""
    if not 0 <= number <= most:
        raise ConfigFaults([f"{option} must be 0 to {most}, got {number}"])
    if find_spec("ray") is None:
        raise ConfigFaults(["this command needs Ray; run: pip install 'ray>=2.60,<2.61'"])
    set_up_logging("INFO", "fleet")
    token = os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token"
    if "RAY_AUTH_TOKEN" not in os.environ and not Path(token).is_file():
        fault = f"{token}: no such file; write a token there, the same on all hosts: "
        raise ConfigFaults([f"{fault}(umask 077; head -c 32 /dev/urandom | base64 > {token})"])
    os.environ.update(SETTINGS)


def _run_ray(words: Sequence[str], password: str = "") -> Exit:
    """Run `ray start` in this process until it ends. password: of the store; "": none

    Ray would show the password to all users of this host, in the command lines of its processes.
    """
    from ray._private import services
    from ray.scripts.scripts import start

    start_process = services.start_ray_process
    start_raylet = services.start_raylet
    shown = f"--redis_password={password}"

    def start_hidden(command: Sequence[str], *rest: Any, **options: Any) -> Any:
        if shown in command:
            command = [*(word for word in command if word != shown), "--fromenv=redis_password"]
            options["env_updates"] = {"FLAGS_redis_password": password}
        return start_process(command, *rest, **options)

    def start_without(*arguments: Any, **options: Any) -> Any:
        # The raylet gives it to the workers, which need no store.
        return start_raylet(*arguments, **options | {"redis_username": "", "redis_password": ""})

    def start_no_server(*_arguments: Any, **_options: Any) -> tuple[None, None]:
        # Even without a dashboard and reports, it asks the network which cloud this host is in.
        return None, None

    services.start_ray_process = start_hidden
    services.start_api_server = start_no_server
    services.start_raylet = start_without
    always = ("--block", "--disable-usage-stats", "--include-log-monitor=false", _MEMORY)
    start.main(args=[*words, *always], standalone_mode=False)
    return Exit.DONE


# -- The actors


def _follow(url: str, address: str, heavy: int) -> None:
    """Have Ray keep the actors of the newest plan, for ever."""
    kept: dict[str, dict[str, Any]] = {}
    version = 0
    while True:
        time.sleep(_LOOK_S)
        try:
            with closing(FleetStore(url)) as store:
                plan = store.plan(version)
            if plan is None:
                continue
            wanted = actors_of(plan, heavy)
            if wanted != kept:
                words = (str(os.getpid()), address, json.dumps(wanted))
                command = [sys.executable, "-c", _DRIVER, *words]
                subprocess.run(command, timeout=_DRIVER_S, check=True)
                to_user.info("Ray keeps %s", ", ".join(wanted) or "no slot")
            kept, version = wanted, plan.version
        except (FramegateError, OSError, subprocess.SubprocessError) as error:
            to_user.warning(
                "the actors of the plan are not all made; the next try follows: %s", error
            )


def keep_actors(parent: str, address: str, actors: str) -> None:
    """Make the actors of a JSON object as `actors_of` returns it, and end all others.

    Ray may wait for its head without end, so this is a process, which its parent limits in time.
    """
    die_with_parent_of(int(parent))
    import ray

    ray.init(address, namespace="framegate", log_to_driver=False, logging_level=logging.ERROR)
    wanted: dict[str, dict[str, Any]] = json.loads(actors)
    kept = set(ray.util.list_named_actors())  # also of those that wait for room
    ending = [ray.get_actor(name) for name in sorted(kept - wanted.keys())]
    if ending:
        ray.wait([actor.end.remote() for actor in ending], num_returns=len(ending), timeout=END_S)
    for actor in ending:
        ray.kill(actor)
    for name in sorted(wanted.keys() - kept):
        actor = ray.remote(HostedProcess).options(
            name=name, get_if_exists=True, lifetime="detached", max_restarts=-1, **wanted[name]
        )
        actor.remote(name)
