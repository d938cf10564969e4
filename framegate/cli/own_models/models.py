"""`framegate models`: manage the user's own models, on this machine and in an active run."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console
from rich.table import Table

from framegate.cli.console.arguments import add_registry, add_run
from framegate.cli.console.terminal import Meter, say
from framegate.cli.help import ending
from framegate.cli.learning.tune import EVIDENCE, add_footage, gain_in_words
from framegate.cli.own_models import add as models_add
from framegate.cli.own_models import get as models_get
from framegate.pipeline.config.sources import is_live, named_sources
from framegate.pipeline.contracts.errors import ConfigFaults, Exit
from framegate.pipeline.run.rpc import (
    GetSources,
    RollBack,
    SourceList,
    Use,
    ask,
    find_run,
)
from framegate.pipeline.system.process import give_way
from framegate.stages.learning.choices import TUNE_FRAMES

if TYPE_CHECKING:
    from framegate.models.registry.manifest import Manifest
    from framegate.stages.learning.int8_version import NoisyLayer, Quantised
    from framegate.stages.learning.later_footage import Judged, JudgedClass

_MAX_CLASSES: Final = 20  # in the table of `judge`
_MIN_AGREEMENT: Final = 0.9
_QUANTISE_FRAMES: Final = 300
_MAX_LAYERS: Final = 10  # in the table of `quantise`

# -- `framegate models use | rollback`: change the model of an active run.


def _register_use(verbs: Any) -> None:
    use = verbs.add_parser(
        "use",
        help="change the model of a run's sources",
        description="Load, compile and check the model beside the one in use, then switch "
        "between two frames, without losing one. A model that fails is refused "
        "and changes nothing. A tuned or trained model is also refused if it was "
        "not judged, or was judged worse than the general one. The run keeps the "
        "model over each --resume.",
        epilog=ending(
            "framegate models use shop",
            "framegate models use shop@2 --sources gate,door",
            page="models",
        ),
    )
    use.set_defaults(command=_use, as_program=give_way)
    use.add_argument(
        "model",
        metavar="MODEL",
        help="NAME, NAME@VERSION, NAME@DIGEST, or a shipped detector such as light",
    )
    add_registry(use)
    use.add_argument(
        "--unjudged",
        action="store_true",
        help="use a tuned or trained model regardless of its verdict",
    )
    back = verbs.add_parser(
        "rollback",
        help="return to the previous model",
        description="Return to the previous model. It stays loaded for ten minutes, so this "
        "is immediate.",
        epilog=ending("framegate models rollback", page="models"),
    )
    back.set_defaults(command=_roll_back)
    for verb in (use, back):
        add_run(verb)
        verb.add_argument("--sources", metavar="A,B", help="only these sources (default: all)")


def named(text: str | None) -> list[str]:
    """Return the names of a comma-separated list; none for None."""
    return [name.strip() for name in (text or "").split(",") if name.strip()]


def _use(parsed: argparse.Namespace) -> Exit:
    from framegate.stages.detect.prepared_models import choose

    folder = Path(find_run(parsed.data).folder)
    with Meter() as tell:
        tell("preparing the model")
        model = choose(parsed.model, folder, parsed.registry, unjudged=parsed.unjudged)
        tell("waiting for the run to switch")
        ask(folder, Use(model, named(parsed.sources)))
    print(f"in use: {model}")
    return Exit.DONE


def _roll_back(parsed: argparse.Namespace) -> Exit:
    folder = Path(find_run(parsed.data).folder)
    chosen = named(parsed.sources)
    ask(folder, RollBack(chosen))
    listed = ask(folder, GetSources())
    assert isinstance(listed, SourceList), listed
    for source in listed.sources:
        if not chosen or source.name in chosen:
            print(f"{source.name}: rolled back to {source.model or 'the configured model'}")
    return Exit.DONE


def register(commands: Any) -> None:
    """Add the command and its sub-commands to the command line."""
    command = commands.add_parser(
        "models",
        description="Manage the models in a folder of this machine, each under its digest. "
        "Only files with a known digest are downloaded.",
        epilog=ending(
            "framegate models add yolo.onnx --name shop",
            "framegate models list",
            "framegate models use shop",
            page="models",
        ),
    )
    verbs = command.add_subparsers(required=True, metavar="VERB")
    models_add.register(verbs)
    models_get.register(verbs)
    listed = verbs.add_parser(
        "list",
        help="list the models of this machine, the newest first",
        description="List the models of this machine, the newest first, then broken ones, then "
        "the shipped detectors.",
        epilog=ending("framegate models list", page="models"),
    )
    listed.set_defaults(command=_list)
    for name, summary, run in (
        ("show", "print the manifest of a model and check its files", _show),
        ("remove", "remove a model from the registry", _remove),
    ):
        verb = verbs.add_parser(
            name,
            help=summary,
            description=summary.capitalize() + ".",
            epilog=ending(f"framegate models {name} shop", page="models"),
        )
        verb.set_defaults(command=run)
        verb.add_argument("ref", metavar="REF", help="NAME, NAME@VERSION or NAME@SHA8")
        add_registry(verb)
    add_registry(listed)
    _register_use(verbs)
    _register_judge(verbs)
    _register_quantise(verbs)


def _list(parsed: argparse.Namespace) -> Exit:
    """Print one line per model, the newest first; then broken and shipped models."""
    from framegate.models.registry.registry import Registry

    models, broken = Registry(parsed.registry).all_models()
    if not models and not broken:
        print(f"no model in {Registry(parsed.registry).root}")
    for model in models:
        manifest = model.manifest
        size = f"{manifest.input.width}x{manifest.input.height}"
        print(
            f"{manifest.ref:<24} {manifest.sha256[:8]}  {manifest.format:<16} {size:>9}  "
            f"{manifest.precision}  {len(manifest.classes)} classes  {model.n_bytes / 1e6:.1f} MB"
        )
    for fault in broken:
        print(f"broken: {fault.path.name[:8]}: {fault.why}")
    _list_shipped()
    return Exit.SOURCE_FAILED if broken else Exit.DONE


def _list_shipped() -> None:
    """Print one line per shipped detector."""
    from framegate.models.detector import policy

    for name in policy.names():
        choices = policy.load(name)
        members = ", ".join(choices.members)
        print(f"{name:<24} shipped   {len(choices.labels):>2} classes  {members}")


def _show(parsed: argparse.Namespace) -> Exit:
    """Print the manifest, and verify the files against it."""
    from framegate.models.formats.table import FORMATS
    from framegate.models.registry.manifest import printable
    from framegate.models.registry.registry import Registry
    from framegate.stages.model_adapters import model_faults

    with model_faults():
        model = Registry(parsed.registry).find(parsed.ref)
        manifest = model.manifest
        output_format = f"{manifest.format}, unknown to this version"
        if manifest.format in FORMATS:
            output_format = f"{manifest.format}: {FORMATS[manifest.format].about}"
        options = [f"{key} = {value}" for key, value in manifest.options.items()]
        metrics = [f"{key} {value}" for key, value in manifest.metrics.items()]
        rows = {
            "model": f"{manifest.ref}, sha256 {manifest.sha256}",
            "format": output_format,
            "options": ", ".join(options) or "none",
            "outputs": ", ".join(manifest.outputs),
            "classes": f"{len(manifest.classes)}: {', '.join(manifest.classes)}",
            **_learned_rows(manifest),
            "input": str(manifest.input),
            "precision": manifest.precision,
            "thresholds": f"score {manifest.min_score:g}, IoU {manifest.nms_iou:g}, "
            f"{manifest.max_boxes} boxes",
            "metrics": ", ".join(metrics) or "none",
            "licence": manifest.licence or "unknown",
            "provenance": manifest.provenance or "unknown",
            "folder": str(model.path),
        }
        for key, value in rows.items():
            say(printable(value), f"{key:<11}")
        model.verified()
        print(f"{'files':<11}{len(manifest.files)}, each with the sha256 of the manifest")
    return Exit.DONE


def _learned_rows(manifest: Manifest) -> dict[str, str]:
    """Return the rows that only a tuned or trained model has."""
    rows = {}
    if manifest.min_scores:
        scores = ", ".join(f"{label} {score:g}" for label, score in manifest.min_scores.items())
        rows["answers"] = f"{scores} (confidence thresholds; other classes are off)"
    if manifest.published_as:
        merged = [f"{label} is {into}" for label, into in manifest.published_as.items()]
        rows["merged"] = ", ".join(merged)
    if (learned := manifest.learned) is not None:
        if learned.confirmed:
            rows["confirmed"] = ", ".join(learned.confirmed)
        if learned.struck:
            rows["struck"] = ", ".join(learned.struck)
        spans = ", ".join(
            f"{span.source} {span.until_s - span.from_s:.0f} s" for span in learned.spans
        )
        rows["learned"] = (
            f"{learned.frames} frames ({spans}), {learned.boxes} boxes of {learned.teacher}; "
            f"from {learned.general}"
        )
    return rows


def _remove(parsed: argparse.Namespace) -> Exit:
    """Remove a model from the registry."""
    from framegate.models.registry.registry import Registry
    from framegate.stages.model_adapters import model_faults

    with model_faults():
        removed = Registry(parsed.registry).remove(parsed.ref)
        print(f"removed: {removed.manifest.ref} ({removed.manifest.result_name})")
    return Exit.DONE


# -- `framegate models judge`: compare a tuned or trained model with the general one.


def _register_judge(verbs: Any) -> None:
    """Add the verb to those of `framegate models`."""
    verb = verbs.add_parser(
        "judge",
        help="compare a tuned or trained model with the general one, on later footage",
        description="Compare a model with the general one on footage that is later than the "
        "footage it learned from: by people's labels, else by their verdicts in "
        "reviews, else by the agreement with the heavy model. `models use` "
        "refuses the model if it is worse by labels, if the gain in agreement may "
        "be chance, or if too few pictures judge it. The verdict is stored beside "
        "the model and replaces the earlier one.",
        epilog=ending(
            "framegate models judge gate --from tuesday.mp4",
            "framegate models judge gate --from data:gate",
            page="models",
        ),
    )
    verb.set_defaults(command=_judge, as_program=give_way)
    verb.add_argument("ref", metavar="REF", help="NAME, NAME@VERSION or NAME@SHA8")
    add_footage(verb, TUNE_FRAMES, "other")
    add_registry(verb)


def _judge(parsed: argparse.Namespace) -> Exit:
    if parsed.frames < 1:
        raise ConfigFaults([f"--frames must be at least 1, got {parsed.frames}"])
    from framegate.stages.learning.later_footage import judge

    with Meter() as meter:
        judged = judge(
            parsed.ref,
            parsed.sources,
            meter,
            parsed.frames,
            parsed.teacher,
            parsed.registry,
            parsed.labels,
        )
    console = Console(highlight=False)
    console.print(model_table(judged))
    console.print(class_table(judged.classes))
    if judged.forgotten:
        counts = ", ".join(f"{label} {n}" for label, n in judged.forgotten.items())
        say(f"{counts}: objects of classes that the model does not detect", "forgotten: ")
    gain, *others = (gain_in_words(each, judged.general) for each in judged.gains)
    if judged.refused:
        say(f"{judged.refused}; {gain}", "refused: ")
    else:
        say(gain, "may serve: ")
    for other in others:
        say(other, "beside: ")
    if judged.refused:
        return Exit.SOURCE_FAILED
    return Exit.DONE


def model_table(judged: Judged) -> Table:
    """Return a table of the two models."""
    decides = judged.decides
    title = f"judged on {decides.frames} pictures, {decides.boxes} objects"
    table = Table(title=f"{title}: {EVIDENCE[decides.evidence]}")
    table.add_column("model", overflow="fold")
    for name in ("F1", "95 %", "ms"):
        table.add_column(name, justify="right", overflow="fold")
    for name, (middle, low, high), ms in (
        (judged.general, judged.general_f1, judged.general_ms),
        (judged.model, judged.f1, judged.ms),
    ):
        table.add_row(name, f"{middle:.3f}", f"{low:.3f} - {high:.3f}", f"{ms:.1f}")
    return table


def class_table(rows: Sequence[JudgedClass]) -> Table:
    """Return a table of the classes with the most objects."""
    table = Table(title="by class")
    table.add_column("class")
    for name in ("objects", "F1 general", "F1 of this model"):
        table.add_column(name, justify="right")
    for row in rows[:_MAX_CLASSES]:
        table.add_row(row.label, str(row.there), f"{row.general:.3f}", f"{row.f1:.3f}")
    return table


# -- `framegate models quantise`: make an 8-bit version, if its answers stay the same.


def _register_quantise(verbs: Any) -> None:
    """Add the verb to those of `framegate models`."""
    verb = verbs.add_parser(
        "quantise",
        help="convert a float model to INT8, with frames of your sources",
        description="Draw frames from the files. The earlier half of each file calibrates the "
        "INT8 model, the later half compares its boxes with those of the float "
        "model. The noisiest layers stay float, until the lower end of the "
        "agreement's interval reaches the bound. The model is then added as "
        "VERSION-int8. Needs the extra `train`.",
        epilog=ending("framegate models quantise shop --from monday.mp4", page="models"),
    )
    verb.set_defaults(command=_quantise)
    verb.add_argument("ref", metavar="REF", help="NAME, NAME@VERSION or NAME@SHA8")
    verb.add_argument(
        "--from", dest="sources", nargs="+", action="extend", required=True, metavar="SOURCE",
        help="video files of typical days",
    )  # fmt: skip
    verb.add_argument(
        "--frames",
        type=int,
        default=_QUANTISE_FRAMES,
        metavar="N",
        help=f"number of frames ({_QUANTISE_FRAMES})",
    )
    verb.add_argument(
        "--least", type=float, default=_MIN_AGREEMENT, metavar="F1",
        help=f"required agreement, 0 to 1, of boxes at IoU 0.5 ({_MIN_AGREEMENT})",
    )  # fmt: skip
    verb.add_argument(
        "--seed", type=int, default=0, metavar="N", help="seed of the random draw of frames"
    )
    add_registry(verb)


def _quantise(parsed: argparse.Namespace) -> Exit:
    from framegate.stages.learning.int8_version import quantise

    files = named_sources(parsed.sources)
    faults = [f"{url} is a camera; give video files" for url in files.values() if is_live(url)]
    if not 0 <= parsed.least <= 1:
        faults.append(f"--least must be 0 to 1, got {parsed.least}")
    if parsed.frames < 2:
        faults.append(f"--frames must be at least 2, got {parsed.frames}")
    if faults:
        raise ConfigFaults(faults)
    log = Console(stderr=True)
    with Meter() as meter:
        quantised = quantise(
            parsed.ref,
            files,
            lambda words: log.print(words, highlight=False),
            meter,
            parsed.frames,
            parsed.least,
            parsed.seed,
            parsed.registry,
        )
    console = Console()
    console.print(layer_table(quantised.layers))
    console.print(candidate_table(quantised))
    print(outcome_in_words(quantised))
    return Exit.SOURCE_FAILED if quantised.added is None else Exit.DONE


def candidate_table(quantised: Quantised) -> Table:
    """Return a table of the candidates."""
    title = f"calibrated on {quantised.calibrated} frames, judged on {quantised.judged} others"
    table = Table(title=title)
    for name in ("candidate", "layers float", "F1 with float", "95 %", "ms", "weights"):
        table.add_column(name, justify="right")
    for row in quantised.rows:
        if row.layers_float is None:
            name, layers, interval = "float", "all", ""
        else:
            name, layers = "int8", str(row.layers_float)
            interval = f"{row.low:.3f} - {row.high:.3f}"
        size = f"{row.weight_bytes / 1e6:.2f} MB"
        table.add_row(name, layers, f"{row.f1:.3f}", interval, f"{row.ms:.1f}", size)
    return table


def layer_table(layers: Sequence[NoisyLayer]) -> Table:
    """Return a table of the noisiest layers."""
    shown = layers[:_MAX_LAYERS]
    table = Table(title=f"the {len(shown)} noisiest of {len(layers)} layers, dB")
    for name in ("own", "in all"):
        table.add_column(name, justify="right")
    for name in ("kind", "layer"):
        table.add_column(name, overflow="fold")
    for layer in shown:
        table.add_row(f"{layer.own_db:.1f}", f"{layer.total_db:.1f}", layer.kind, layer.name)
    return table


def outcome_in_words(quantised: Quantised) -> str:
    """Return the outcome in words."""
    best = max(quantised.rows[1:], key=lambda row: row.low)
    bound = f"at least {quantised.least:.3f} is required, with 95 % confidence"
    if quantised.added is None:
        return f"not added: the best candidate reaches {best.low:.3f}; {bound}"
    float_ms = quantised.rows[0].ms
    text = (
        f"added: {quantised.added}: {best.low:.3f}; {bound}; {float_ms / best.ms:.2f} times as "
        "fast as float here"
    )
    if best.ms >= float_ms:
        text += "; it is not faster"
    return text
