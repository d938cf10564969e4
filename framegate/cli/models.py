"""`framegate models`: manage the user's own models, on this machine and in an active run."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from framegate.cli import judge, models_add, quantise
from framegate.cli.arguments import add_registry
from framegate.cli.help import ending
from framegate.cli.terminal import Meter, say
from framegate.pipeline.contracts.errors import Exit
from framegate.pipeline.run.rpc import (
    GetSources,
    RollBack,
    SourceList,
    Use,
    ask,
    find_run,
)
from framegate.pipeline.system.process import give_way

if TYPE_CHECKING:
    from framegate.models.registry.model_folder import Manifest

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
    use.add_argument("model", metavar="MODEL", help="NAME, NAME@VERSION, NAME@DIGEST, or light")
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
        verb.add_argument(
            "-d", dest="data", type=Path, metavar="DATA", help="the run's data folder"
        )
        verb.add_argument("--sources", metavar="A,B", help="only these sources (default: all)")


def named(text: str | None) -> list[str]:
    """Return the names of a comma-separated list; none for None."""
    return [name.strip() for name in (text or "").split(",") if name.strip()]


def _use(parsed: argparse.Namespace) -> Exit:
    from framegate.stages.detect.run_models import choose

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
        "Only a URL that you pass with its digest is downloaded.",
        epilog=ending(
            "framegate models add yolo.onnx --name shop",
            "framegate models list",
            "framegate models use shop",
            page="models",
        ),
    )
    verbs = command.add_subparsers(required=True, metavar="VERB")
    models_add.register(verbs)
    listed = verbs.add_parser(
        "list",
        help="list the models of this machine, the newest first",
        description="List the models of this machine, the newest first, then broken ones.",
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
    judge.register(verbs)
    quantise.register(verbs)


def _list(parsed: argparse.Namespace) -> Exit:
    """Print one line per model, the newest first; then the broken models."""
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
    return Exit.SOURCE_FAILED if broken else Exit.DONE


def _show(parsed: argparse.Namespace) -> Exit:
    """Print the manifest, and verify the files against it."""
    from framegate.models.formats.table import FORMATS
    from framegate.models.registry.registry import Registry
    from framegate.stages.model_faults import model_faults

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
            say(value, f"{key:<11}")
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
    from framegate.stages.model_faults import model_faults

    with model_faults():
        removed = Registry(parsed.registry).remove(parsed.ref)
        print(f"removed: {removed.manifest.ref} ({removed.manifest.result_name})")
    return Exit.DONE
