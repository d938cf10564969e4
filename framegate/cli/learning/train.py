"""`framegate train`: train a small network for one camera."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console

from framegate.cli.console.arguments import add_registry
from framegate.cli.console.terminal import Meter, Person, say
from framegate.cli.help import ending
from framegate.cli.learning.tune import (
    add_classes,
    add_footage,
    add_relearn,
    chosen,
    class_table,
    is_needed,
    next_steps,
    say_outcome,
    size_table,
    use_added,
    wishes_of,
)
from framegate.pipeline.contracts.errors import ConfigFaults, Exit
from framegate.pipeline.system.outputs import Inputs, output_faults
from framegate.pipeline.system.process import give_way
from framegate.stages.learning.choices import SIDES, STEPS, TRAIN_FRAMES, ClassChoice, ClassSeen

if TYPE_CHECKING:
    from framegate.stages.learning.student_training import Trained

# Training keeps all frames in memory at both input sizes, and for a moment twice: about 0.2 MB per
# frame of a crowded scene. The rest takes 1.3 GB, so that 3000 frames stay below 2 GB in all.
MAX_FRAMES: Final = 3000
PROCESSES: Final = (1, 2, 4, 8)  # they share the eight pictures of a step


def default_folder(name: str) -> Path:
    """Return `$XDG_DATA_HOME/framegate/training/NAME`, or the same below `~/.local/share`."""
    home = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return Path(home) / "framegate" / "training" / name


def register(commands: Any) -> None:
    """Add the command to the command line."""
    command = commands.add_parser(
        "train",
        description="Make a network with three quarters of the channels of the light detector: fit "
        "it to the camera's pictures by least squares, then train it on the labels of "
        "people, and of the heavy model where people labelled nothing. The last third "
        "of the footage judges it as in `tune`. Also, it must not be clearly worse than "
        "the light detector tuned to the same camera. The state is on disk every half "
        "minute: Ctrl-C ends the training, and --resume or the same command continues "
        "it. Needs the extra `train`. Exit code 1 if the model was not added.",
        epilog=ending(
            "framegate train gate --from monday.mp4 --sheet seen.png",
            "framegate train gate --from monday.mp4 --classes person,car --size accurate",
            "framegate train gate --resume",
            page="learning",
        ),
    )
    command.set_defaults(command=_train, as_program=give_way)
    command.add_argument("name", metavar="NAME", help="name of the model, such as the camera's")
    add_footage(command, TRAIN_FRAMES, "typical", is_required=False)
    add_classes(command)
    group = command.add_argument_group("training")
    group.add_argument(
        "--size", choices=("auto", *SIDES), default="auto",
        help="compact: input of 320 pixels; accurate: 416, for small objects; auto: compact, "
        "unless the light detector is worse at 320 (auto)",
    )  # fmt: skip
    group.add_argument(
        "--minutes", type=float, metavar="M",
        help=f"minutes of training, without the teacher's time (default: {STEPS} steps)",
    )  # fmt: skip
    group.add_argument(
        "--processes",
        type=int,
        choices=PROCESSES,
        default=1,
        help="processes that share each step (1)",
    )
    group.add_argument(
        "--device", choices=("cpu", "cuda"), default="cpu", help="device for the training (cpu)"
    )
    group.add_argument(
        "--seed", type=int, default=0, metavar="N", help="seed of all random draws (0)"
    )
    group.add_argument("--resume", action="store_true", help="continue an interrupted training")
    group.add_argument(
        "--show", type=Path, metavar="FILE", help="write a picture of training examples"
    )
    command.add_argument(
        "-d", dest="folder", type=Path, metavar="FOLDER",
        help="folder of the training's state (default: training/NAME beside the registry)",
    )  # fmt: skip
    add_registry(command)
    add_relearn(command)


def _train(parsed: argparse.Namespace) -> Exit:
    if find_spec("torch") is None or find_spec("nncf") is None:
        needed = "in Framegate's checkout, pip install '.[train]' (or make extras)"
        raise ConfigFaults([f"train: torch and nncf are not installed: {needed}"])
    _check(parsed)
    if not is_needed(parsed):
        return Exit.DONE
    from framegate.stages.learning.student_training import Views, train
    from framegate.stages.learning.training_request import TrainRequest

    request = TrainRequest(
        parsed.name,
        tuple(parsed.sources),
        parsed.folder or default_folder(parsed.name),
        SIDES.get(parsed.size),
        parsed.minutes,
        parsed.processes,
        parsed.device,
        parsed.seed,
        parsed.frames,
        parsed.teacher,
        parsed.registry,
        wishes_of(parsed),
        tuple(parsed.labels),
    )
    views = Views(parsed.sheet, parsed.show, parsed.overwrite)
    person = Person(sys.stdin.isatty() and not request.wishes[0])
    with Meter() as meter:

        def choose(seen: Sequence[ClassSeen]) -> ClassChoice:
            with meter.paused():
                return chosen(seen, parsed.sheet, person, *request.wishes)

        done = train(request, views, parsed.resume, choose, meter)
    return _report(done, parsed)


def _check(parsed: argparse.Namespace) -> None:
    faults = []
    if parsed.resume and parsed.sources:
        faults.append("--resume continues with the footage of the first call; leave out --from")
    if parsed.resume and parsed.labels:
        faults.append("--resume continues with the labels of the first call; leave out --labels")
    if parsed.resume and (parsed.use or parsed.if_needed):
        faults.append(
            "--resume continues a training in any case; leave out --if-needed and --use, and use "
            f"the model with framegate models use {parsed.name}"
        )
    if not parsed.resume and not parsed.sources:
        faults.append("--from SOURCE is missing: the footage to learn from")
    if not 1 <= parsed.frames <= MAX_FRAMES:
        faults.append(f"--frames must be 1 to {MAX_FRAMES}, got {parsed.frames}")
    if parsed.minutes is not None and not 0 < parsed.minutes <= 1440:
        faults.append(f"--minutes must be above 0 and at most 1440, got {parsed.minutes:g}")
    if parsed.seed < 0:
        faults.append(f"--seed must be at least 0, got {parsed.seed}")
    read = Inputs({word: word.rpartition("=")[2] for word in parsed.sources})
    for option, file in (("--sheet", parsed.sheet), ("--show", parsed.show)):
        if file is not None:
            faults += output_faults(option, file, read, parsed.overwrite)
    if faults:
        raise ConfigFaults(faults)


def _report(done: Trained, parsed: argparse.Namespace) -> Exit:
    judged = done.found
    if judged is None:
        command = f"framegate train {parsed.name} --resume"
        if parsed.folder is not None:
            command += f" -d {parsed.folder}"
        say(f"after step {done.steps} of {done.of}; continue with {command}", "stopped: ")
        return Exit.STOPPED_TWICE
    console = Console(highlight=False)
    console.print(size_table(judged))
    console.print(class_table(judged, models=("tuned", "trained")))
    if done.light:
        scores = ", ".join(f"{f1:.3f} at {side}" for side, f1 in done.light.items())
        say(f"chosen by F1 of the light detector, tuned to these pictures: {scores}", "size: ")
    say(
        f"{done.steps} steps in {done.cpu_s:.0f} CPU seconds; the network has {done.share:.0%} of "
        "the light detector's multiplications",
        "trained: ",
    )
    say_outcome(judged.gains, "the unchanged detector", judged.added, judged.refused)
    if judged.added is None:
        say(f"framegate tune {parsed.name}, which needs no training", "next: ")
        return Exit.SOURCE_FAILED
    say(next_steps(parsed.name, done.registry), "next: ")
    if parsed.use:
        use_added(parsed, judged.added)
    return Exit.DONE
