"""`framegate tune`: fit the detector to one camera, without training."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console
from rich.table import Table

from framegate.cli.console.arguments import add_registry
from framegate.cli.console.terminal import Meter, Person, say
from framegate.cli.help import ending
from framegate.pipeline.config.sources import named_sources
from framegate.pipeline.contracts import keys
from framegate.pipeline.contracts.errors import ConfigFaults, Exit, did_you_mean
from framegate.pipeline.run.rpc import GetSources, SourceList, Use, ask, find_run
from framegate.pipeline.system.outputs import Inputs, add_overwrite, output_faults
from framegate.pipeline.system.process import give_way
from framegate.stages.learning.choices import (
    HEAVY,
    LEAST_NEW,
    TRAINING_S,
    TUNE_FRAMES,
    ClassChoice,
    ClassSeen,
    ClassWishes,
)

if TYPE_CHECKING:
    from framegate.models.learning.judgement import JudgedBy
    from framegate.stages.learning.camera_tuning import Gain, Tuned
    from framegate.stages.learning.later_footage import NewFootage

_SIZES: Final = ("auto", "416", "320", "224")
_MAX_CLASSES: Final = 20  # in a table


def add_footage(
    command: argparse.ArgumentParser, frames: int, hours: str, is_required: bool = True
) -> None:
    """Add the options of every command whose teacher looks at footage.

    frames  default of --frames
    hours   kind of hours that the video files are of
    """
    command.add_argument(
        "--from", dest="sources", nargs="+", action="extend", required=is_required, default=[],
        metavar="SOURCE",
        help=f"footage: video files of {hours} hours, or other sources of docs/learning.md",
    )  # fmt: skip
    command.add_argument(
        "--frames", type=int, default=frames, metavar="N",
        help=f"maximum number of pictures ({frames})",
    )  # fmt: skip
    command.add_argument(
        "--labels", type=Path, nargs="+", action="extend", default=[], metavar="FILE",
        help="people's labels of frames of the footage, as JSON of COCO; see docs/learning.md",
    )  # fmt: skip
    command.add_argument(
        "--teacher", default=HEAVY, metavar="MODEL",
        help="model that labels the pictures: heavy, or a model of the registry (heavy)",
    )  # fmt: skip


def register(commands: Any) -> None:
    """Add the command to the command line."""
    command = commands.add_parser(
        "tune",
        description="Choose a confidence threshold per class and the input size of the light "
        "detector for one camera. The heavy model labels the pictures that people "
        "did not label. The last third of the footage judges the result, beside "
        "the shipped detector: by people's labels, else by their verdicts in "
        "reviews, else by the agreement with the heavy model. Only classes that a "
        "person confirmed count. The model is added as NAME if it is not worse by "
        "labels, or else if its gain is above zero. Answers are cached, so the "
        "next attempt is quicker. Exit code 1 if the model was not added.",
        epilog=ending(
            "framegate tune gate --from monday.mp4 --sheet seen.png",
            "framegate tune gate --from monday.mp4 --classes person,car",
            "framegate tune gate --from monday.mp4 --classes car --merge truck=car",
            page="learning",
        ),
    )
    command.set_defaults(command=_tune, as_program=give_way)
    command.add_argument("name", metavar="NAME", help="name of the model, such as the camera's")
    add_footage(command, TUNE_FRAMES, "typical")
    add_classes(command)
    command.add_argument(
        "--size", choices=_SIZES, default="auto",
        help="longer side of the input; auto: the fastest size that is as good (auto)",
    )  # fmt: skip
    add_registry(command)
    add_relearn(command)


def add_classes(command: argparse.ArgumentParser) -> None:
    """Add the options about classes; see wishes_of."""
    group = command.add_argument_group("classes (without --classes, a terminal asks)")
    group.add_argument("--sheet", type=Path, metavar="FILE", help="write pictures of each class")
    group.add_argument(
        "--classes", metavar="A,B",
        help="the classes that are really there, as the sheet shows; others are not detected",
    )  # fmt: skip
    group.add_argument(
        "--merge", metavar="A=B", action="append", default=[],
        help="publish A as B; may be repeated",
    )  # fmt: skip
    add_overwrite(group)


def wishes_of(parsed: argparse.Namespace) -> ClassWishes:
    """Return the options about classes. ConfigFaults."""
    return _named(parsed.classes), _pairs(parsed.merge)


def _tune(parsed: argparse.Namespace) -> Exit:
    faults = []
    if parsed.frames < 1:
        faults.append(f"--frames must be at least 1, got {parsed.frames}")
    if parsed.sheet is not None:
        read = Inputs({word: word.rpartition("=")[2] for word in parsed.sources})
        faults += output_faults("--sheet", parsed.sheet, read, parsed.overwrite)
    if faults:
        raise ConfigFaults(faults)
    from framegate.stages.learning.camera_tuning import TuneRequest, tune

    side = None if parsed.size == "auto" else int(parsed.size)
    request = TuneRequest(
        parsed.name,
        tuple(parsed.sources),
        parsed.frames,
        side,
        parsed.teacher,
        parsed.sheet,
        parsed.overwrite,
        parsed.registry,
        wishes_of(parsed),
        tuple(parsed.labels),
    )
    if parsed.use:
        _check_not_trained(parsed.name, parsed.registry)
    if not is_needed(parsed):
        return Exit.DONE
    person = Person(sys.stdin.isatty() and not request.wishes[0])
    with Meter() as meter:

        def choose(seen: Sequence[ClassSeen]) -> ClassChoice:
            with meter.paused():
                return chosen(seen, parsed.sheet, person, *request.wishes)

        try:
            tuned = tune(request, choose, meter)
        except KeyboardInterrupt:
            with meter.paused():
                print(
                    "tune: stopped; the labels so far are kept: the same command continues "
                    "from there",
                    file=sys.stderr,
                )
            raise
    _print(tuned, parsed)
    if tuned.added is None:
        return Exit.SOURCE_FAILED
    if parsed.use:
        use_added(parsed, tuned.added)
    return Exit.DONE


def _check_not_trained(name: str, registry: Path | None) -> None:
    """Raise ConfigFaults if the newest model of the name was trained.

    Both are only compared with the shipped detector, so a tuned model could replace a better one.
    """
    from framegate.stages.learning.later_footage import newest_model

    model = newest_model(name, registry)
    if model is not None and TRAINING_S in model.metrics:
        raise ConfigFaults(
            [
                f"--use: {model.ref} was trained, and a tuned model would replace it without a "
                f"comparison of the two; train it again (framegate train {name}), or leave out "
                "--use"
            ]
        )


# -- Which classes.


def choice_of(
    seen: Sequence[ClassSeen], confirmed: Sequence[str], merge: dict[str, str]
) -> ClassChoice:
    """Return the classes to detect. ConfigFaults for unseen classes, or if none is left.

    confirmed  classes that are really there, under their own or their merged names
    merge      names under which classes are published
    """
    labels = [each.label for each in seen]
    given = {"--classes": confirmed, "--merge": tuple(merge)}
    known = {"--classes": [*labels, *merge.values()], "--merge": labels}
    faults = []
    for option, names in given.items():
        for name in names:
            if name not in known[option]:
                near = did_you_mean(name, labels)
                faults.append(
                    f"{option} {name}: not seen in the footage, which has {', '.join(labels)}{near}"
                )
    faults += [
        f"--merge {a}={b}: {b} is itself merged into another class"
        for a, b in merge.items()
        if b in merge
    ]
    if faults:
        raise ConfigFaults(faults)
    kept = [
        merge.get(label, label)
        for label in labels
        if label in confirmed or merge.get(label) in confirmed
    ]
    if not kept:
        raise ConfigFaults(["--classes: no class is left; confirm at least one"])
    kept = list(dict.fromkeys(kept))
    return ClassChoice(tuple(kept), {a: b for a, b in merge.items() if b in kept})


def chosen(
    seen: Sequence[ClassSeen],
    sheet: Path | None,
    person: Person,
    confirmed: Sequence[str],
    merge: dict[str, str],
) -> ClassChoice:
    """Return the classes that a person confirms: by --classes, at the terminal, or earlier by
    labels, verdicts or for the last model of the name. ConfigFaults if there is none.
    """
    counts = [f"{each.label} {each.objects} ({each.frames} pictures)" for each in seen]
    say(", ".join(counts), "seen: ")
    if sheet is not None:
        say(f"{sheet}: check that the pictures show these classes", "drawn: ")
    known = [each.label for each in seen if each.is_confirmed]
    if not person.is_there:
        confirmed = confirmed or known
        if not confirmed:
            raise ConfigFaults([_nothing_confirmed(seen, sheet)])
        return choice_of(seen, confirmed, merge)
    question = "Really there (names, with commas, or all)"
    while True:
        names = _named(person.says(question, ", ".join(known)))
        if names == ("all",):
            names = tuple(each.label for each in seen)
        try:
            merged = merge | _pairs(
                _named(person.says("Merge (as truck=car, with commas; empty: none)"))
            )
            return choice_of(seen, names, merged)
        except ConfigFaults as wrong:
            print(wrong)


def _nothing_confirmed(seen: Sequence[ClassSeen], sheet: Path | None) -> str:
    """Return what a person must do so that classes count."""
    look = f"look at {sheet}"
    if sheet is None:
        look = "look at pictures of them (--sheet seen.png)"
    labels = ",".join(each.label for each in seen)
    return (
        f"--classes is missing: no person confirmed a class, so a gain could be of things that are "
        f"not there; {look}, then repeat the command with those of --classes {labels!r} that are "
        "really there. It continues from the kept answers"
    )


def _named(text: str | None) -> tuple[str, ...]:
    """Return the names of a comma-separated list; none for None."""
    names = [name.strip() for name in (text or "").split(",")]
    return tuple(name for name in names if name)


def _pairs(texts: Sequence[str]) -> dict[str, str]:
    """Return the pairs A=B of texts, each of which may have several, with commas."""
    pairs = {}
    for word in _named(",".join(texts)):
        name, equals, into = (part.strip() for part in word.partition("="))
        if not (name and equals and into) or name == into:
            raise ConfigFaults([f"--merge {word}: write A=B, as in truck=car"])
        pairs[name] = into
    return pairs


# -- Output.

EVIDENCE: Final[Mapping[JudgedBy, str]] = {
    "labels": "people's labels",
    "verdicts": "people's verdicts in reviews",
    "teacher": "agreement with the teacher",
}
_OBJECTS: Final[Mapping[JudgedBy, str]] = {
    "labels": "objects that people labelled",
    "verdicts": "boxes that people judged in reviews",
    "teacher": "objects of the teacher",
}


def _print(tuned: Tuned, parsed: argparse.Namespace) -> None:
    console = Console(highlight=False)
    console.print(size_table(tuned))
    console.print(class_table(tuned))
    off = [row.label for row in tuned.classes if row.least is None]
    if off:
        say(f"{', '.join(off)}: the detector is wrong more often than right", "off: ")
    say_outcome(tuned.gains, "the unchanged detector", tuned.added, tuned.refused)
    if tuned.added is not None:
        say(next_steps(parsed.name, parsed.registry), "next: ")


def say_outcome(gains: Sequence[Gain], other: str, added: str | None, refused: str) -> None:
    """Print whether a model was added, the gain by the evidence that decided, and the other gains.

    other  the model that it was compared with
    """
    decides, *others = gains
    gain = gain_in_words(decides, other)
    if added is None:
        say(f"{refused}; {gain}", "not added: ")
    else:
        say(f"{added}: {gain}", "added: ")
    for each in others:
        say(f"{gain_in_words(each, other)}, on {each.frames} pictures", "beside: ")


def gain_in_words(gain: Gain, other: str) -> str:
    """Return a difference of F1 to another model, its evidence, and whether it may be chance."""
    middle, low, high = gain.difference
    evidence = EVIDENCE[gain.evidence]
    words = f"by {evidence}, F1 {middle:+.3f} ({low:+.3f} to {high:+.3f}) against {other}"
    if low <= 0 < middle:
        return f"{words}; this footage does not show that it is better"
    return words


def next_steps(name: str, registry: Path | None) -> str:
    """Return the commands that use a new model. registry: None for the default one."""
    option = ""
    if registry is not None:
        option = f" --registry {shlex.quote(str(registry))}"
    return (
        f"framegate run SOURCE --detector {name}{option}; in an active run: "
        f"framegate models use {name}{option}"
    )


def size_table(tuned: Tuned) -> Table:
    """Return a table of the candidates."""
    title = f"tuned on {tuned.tuned_on} pictures, judged on {tuned.decides.frames} later ones"
    table = Table(title=f"{title}: {EVIDENCE[tuned.decides.evidence]}")
    for name in ("input", "F1 tuned on", "F1 later", "95 %", "ms", ""):
        table.add_column(name, justify="right")
    for row in tuned.sizes:
        middle, low, high = row.later
        interval = f"{low:.3f} - {high:.3f}"
        mark = "chosen" * row.is_chosen
        earlier = _figure(row.earlier)
        table.add_row(row.name, earlier, f"{middle:.3f}", interval, f"{row.ms:.1f}", mark)
    return table


def class_table(tuned: Tuned, models: tuple[str, str] = ("unchanged", "tuned")) -> Table:
    """Return a table of the classes with the most objects.

    models  names of the general model and of this one in the heading
    """
    objects = _OBJECTS[tuned.decides.evidence]
    table = Table(title=f"{tuned.decides.boxes} {objects} in the later pictures")
    table.add_column("class")
    for name in ("objects", *(f"F1 {model}" for model in models), "threshold"):
        table.add_column(name, justify="right")
    for row in tuned.classes[:_MAX_CLASSES]:
        threshold = "off" if row.least is None else f"{row.least:.2f}"
        figures = (_figure(row.general), _figure(row.f1))
        table.add_row(row.label, str(row.there), *figures, threshold)
    return table


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


# -- Learning again only if needed, and use of the model: options of `tune` and `train`.


def add_relearn(command: Any) -> None:
    """Add the options to a command with NAME, --from and --registry."""
    group = command.add_argument_group("repeated learning")
    group.add_argument(
        "--if-needed",
        action="store_true",
        help="do nothing unless there is no model NAME, or there is as much new footage as it "
        f"learned from, at least {LEAST_NEW} pictures",
    )
    group.add_argument(
        "--use",
        action="store_true",
        help="let the runs whose data folders are among the footage use the new model, for the "
        "sources of that footage",
    )


def is_needed(parsed: argparse.Namespace) -> bool:
    """Print and return whether learning is needed; without --if-needed, it always is."""
    if parsed.use and not runs_among(parsed.sources):
        raise ConfigFaults(
            [
                "--use needs a run: no --from is a run's data folder with footage "
                "(DATA or DATA:SOURCE)"
            ]
        )
    if not parsed.if_needed:
        return True
    from framegate.stages.learning.later_footage import new_footage

    footage = new_footage(parsed.name, tuple(parsed.sources), parsed.registry)
    why = reason(footage, parsed.name)
    if why:
        say(why, "needed: ")
    else:
        say(
            f"{parsed.name} learned from {footage.learned} pictures, {footage.new} are new",
            "nothing to do: ",
        )
    return bool(why)


def reason(footage: NewFootage, name: str) -> str:
    """Return why the model must be learned again; "" if that is not needed."""
    if footage.learned is None:
        return f"there is no model {name}"
    if footage.new >= max(footage.learned, LEAST_NEW):
        return f"{footage.new} pictures are new; it learned from {footage.learned}"
    return ""


def use_added(parsed: argparse.Namespace, ref: str) -> None:
    """Let the runs among the footage use an added model, for the sources that the footage is of."""
    from framegate.stages.detect.prepared_models import choose

    for folder, footage in runs_among(parsed.sources).items():
        run = Path(find_run(folder).folder)
        model = choose(ref, run, parsed.registry)
        listed = ask(run, GetSources())
        assert isinstance(listed, SourceList), listed
        # The footage may be of sources that were removed. Without any, the run refuses the names.
        names = sorted(footage & {each.name for each in listed.sources}) or sorted(footage)
        ask(run, Use(model, names))
        say(f"{model}, by {', '.join(names)} of {folder}", "in use: ")


def runs_among(words: Sequence[str]) -> dict[Path, set[str]]:
    """Return the data folders among the footage, with the sources that the footage is of.

    words  footage, as read_footage takes it
    """
    from framegate.stages.footage.kept_pictures import FOLDER, kept_frames

    runs: dict[Path, set[str]] = {}
    for place in named_sources(words).values():
        folder, _, source = place.rpartition(":")
        if not Path(place).exists() and Path(folder).is_dir() and keys.is_name(source):
            runs.setdefault(Path(folder), set()).add(source)
        elif Path(place, FOLDER).is_dir():
            names = {name for name, kept in kept_frames(Path(place)).items() if kept.files}
            if names:
                runs.setdefault(Path(place), set()).update(names)
    return runs
