"""`framegate worker --heavy`: run the heavy model for runs on other hosts, over a shared Redis."""

from __future__ import annotations

import argparse
import signal
from pathlib import Path
from typing import Any

from framegate.cli.help import ending
from framegate.pipeline.config.store import url_said
from framegate.pipeline.contracts.errors import ConfigFaults, Exit
from framegate.pipeline.contracts.redaction import shown
from framegate.pipeline.heavy.batching import BatchLimits
from framegate.pipeline.heavy.worker import HeavyAsks, HeavyWorker, Looker
from framegate.pipeline.run.rpc import find_run
from framegate.pipeline.system.logs import set_up_logging, to_user

PRECISIONS = ("f32", "bf16", "int8", "int8+bf16")  # of framegate.models.detector.network
_MOST_BATCH, _MOST_THREADS, _MOST_DELAY_MS = 64, 1024, 1000


def register(commands: Any) -> None:
    """Add the command to the command line."""
    command = commands.add_parser(
        "worker",
        description="Answer questions of runs with the heavy model, over Redis. Several "
        "workers share the work; each must use the precision of the runs. Ctrl-C "
        "answers the questions in progress and ends; a second Ctrl-C ends at "
        "once, and other workers take over.",
        epilog=ending(
            "framegate worker --heavy -d data",
            "framegate worker --heavy --redis env:STORE",
            page="promise",
        ),
    )
    command.set_defaults(command=_worker)
    command.add_argument("--heavy", action="store_true", required=True, help="run the heavy model")
    where = command.add_mutually_exclusive_group(required=True)
    where.add_argument(
        "--redis",
        metavar="URL",
        help="the Redis or Valkey of the runs; env:NAME reads the URL from a variable",
    )
    where.add_argument(
        "-d",
        "--data",
        type=Path,
        metavar="DIR",
        help="data folder of an active run on this host, instead of --redis",
    )
    _add_looks(command)
    command.add_argument(
        "--log-format", choices=("text", "json"), help="format of log lines on stderr"
    )


def _add_looks(command: argparse.ArgumentParser) -> None:
    """Add the options about the network and its batches."""
    command.add_argument(
        "--threads", type=int, metavar="N", help="threads of the network (default: all)"
    )
    command.add_argument(
        "--precision",
        choices=PRECISIONS,
        help="precision; must be that of the runs: int8+bf16 on a CPU with bf16, else "
        "int8 (default: by this CPU)",
    )
    command.add_argument(
        "--batch",
        type=int,
        default=4,
        metavar="N",
        help="maximum number of pictures per batch (default: 4)",
    )
    command.add_argument(
        "--delay-ms",
        type=float,
        default=5.0,
        metavar="MS",
        help="maximum time that a picture waits for its batch (default: 5)",
    )


def _worker(parsed: argparse.Namespace) -> Exit:
    faults = [
        f"--{name} must be {least} to {most}, got {value}"
        for name, value, least, most in (
            ("threads", parsed.threads, 1, _MOST_THREADS),
            ("batch", parsed.batch, 1, _MOST_BATCH),
            ("delay-ms", parsed.delay_ms, 0, _MOST_DELAY_MS),
        )
        if value is not None and not least <= value <= most
    ]
    if faults:
        raise ConfigFaults(faults)
    url = url_said(parsed.redis, "--redis") if parsed.data is None else find_run(parsed.data).store
    assert url is not None
    set_up_logging("INFO", "heavy", parsed.log_format or "text")
    asks = HeavyAsks(url)  # before the model: a wrong URL is reported at once
    to_user.info("heavy worker at %s: loading the model", shown(url))
    from framegate.stages.escalate.heavy_pass import HeavyLooker

    looker = HeavyLooker(parsed.threads, parsed.precision)
    return work(asks, looker, BatchLimits(parsed.batch, parsed.delay_ms / 1000))


def work(asks: HeavyAsks, looker: Looker, limits: BatchLimits) -> Exit:
    """Answer questions until SIGTERM or Ctrl-C."""
    worker = HeavyWorker(asks, looker, limits)
    stops = 0

    def stop(_signal: int, _frame: object) -> None:
        nonlocal stops
        stops += 1
        if stops > 1:
            raise KeyboardInterrupt
        worker.stop()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    to_user.info(
        "answering questions; policy %s with precision %s", looker.policy[:8], looker.precision
    )
    worker.serve()
    return Exit.DONE
