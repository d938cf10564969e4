"""The sources of a run: claimed, added, removed and resumed; `source_forms` has their forms."""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from msgspec import structs

from framegate.pipeline.contracts import records
from framegate.pipeline.contracts.errors import (
    ConfigFaults,
    FramegateError,
    ModelNotTaken,
    StoreBusy,
    StoreLost,
    StoreRefused,
    TakenOver,
    did_you_mean,
)
from framegate.pipeline.contracts.keys import NAME_RULE, is_name
from framegate.pipeline.contracts.object_filters import NamedFilter, ObjectFilter
from framegate.pipeline.contracts.records import DecodeState
from framegate.pipeline.contracts.spec import SourceSpec
from framegate.pipeline.run.filters import filters_of, with_filter, without_filter
from framegate.pipeline.run.folder import (
    RunFile,
    RunFolder,
    RunSource,
)
from framegate.pipeline.run.models import RunModels
from framegate.pipeline.store.admin import StoreAdmin
from framegate.pipeline.system.outputs import save_faults

log = logging.getLogger(__name__)

SpecOf = Callable[[RunSource], SourceSpec]


class RunSources:
    """The current sources of a run: owned in the store, written to run.json, given to workers.

    Methods that change sources may block; only one thread at a time may call them. Any thread may
    call the others.
    """

    def __init__(
        self,
        run: RunFile,
        folder: RunFolder,
        store: StoreAdmin,
        owner: str,
        spec_of: SpecOf,
        models: RunModels,
        saves: Path | None = None,
        filters: Mapping[str, ObjectFilter] | None = None,
        rules: Mapping[str, str] | None = None,
    ) -> None:
        """Prepare the sources in `run`; `claim` takes them.

        owner    name of this run in messages of other runs
        spec_of  converts a source for workers
        saves    folder of the saved videos, which must not replace a source
        filters  filters of the configuration, by name
        rules    versions of the rules whose episodes a filter can mute, by name; None: unknown
        """
        self._run = run
        self._folder = folder
        self._store = store
        self._owner = owner
        self._spec_of = spec_of
        self._models = models
        self._saves = saves
        self._configured_filters = filters or {}
        self._rules = rules
        self._lost: frozenset[str] = frozenset()
        self._parked: frozenset[str] = frozenset()
        self._specs: dict[str, SourceSpec] = {}
        self._generation = 0  # the last one in use

    @property
    def stays(self) -> bool:
        """Return whether the run continues without sources: it had a camera, or began empty."""
        return self._run.stays

    def listed(self) -> tuple[RunSource, ...]:
        """Return all sources in the order of their addition."""
        return self._run.sources

    def names(self) -> list[str]:
        """Return the names of all sources."""
        return [source.name for source in self._run.sources]

    def lost(self) -> frozenset[str]:
        """Return the names of the sources that another run took over."""
        return self._lost

    def parked(self) -> frozenset[str]:
        """Return the names of the sources that no worker serves, because their worker failed."""
        return self._parked

    def all_lost(self) -> bool:
        """Return whether other runs took over all sources of this run."""
        return bool(self._lost) and self._lost.issuperset(self.names())

    def specs(self) -> list[SourceSpec]:
        """Return the sources for workers, without lost and parked ones.

        A source that was changed, or removed and added again, has a new generation.
        """
        return list(self._specs.values())

    def claim(self, take_over: bool) -> None:
        """Claim the sources that this run had before, and release others that it still owns.

        A source that another run took over is lost. SourceOwned if another run owns one.
        """
        for source in self._run.sources:
            try:
                self._store.claim(source.name, self._run.run, self._owner, take_over)
            except TakenOver as error:
                log.error("%s", error)
                self._lost |= {source.name}
                continue
            if source.live and not source.ending and self._has_ended(source.name):
                self._store.reset_decode(source.name)  # try a failed camera again
        others = sorted(set(self._store.sources()) - set(self.names()))
        self._store.release_all(others, self._run.run)
        self._take(self._run.sources)

    def _has_ended(self, name: str) -> bool:
        _, state = self._store.positions_and_states([name], [])[name]
        return state is not None and records.decode(state, DecodeState).done

    def add(self, sources: Sequence[RunSource], take_over: bool, by_hand: bool = False) -> None:
        """Claim all these sources or none. They continue in the epoch after their last.

        by_hand  whether a user or the newest instance of a slot asks for them now, which includes
                 those that were taken over
        ConfigFaults for names that are used or invalid; SourceOwned if another run owns a source;
        TakenOver if another run took it over.
        """
        self._check_new(sources)
        try:
            if not self._run.begun:
                # The run's id is stored first: a kill must not leave a source to an unknown run.
                self._folder.write(structs.replace(self._run, sources=tuple(sources)))
            added = [self._claim_new(source, take_over, by_hand) for source in sources]
            self._write((*self._run.sources, *added))
        except FramegateError:
            self.release([source.name for source in sources])
            raise
        self._try_to_announce()

    def models_of(self, sources: Sequence[RunSource]) -> dict[str, str]:
        """Return the registry models that these sources of other runs have and keep, by source.

        ConfigFaults for names that are used or invalid; ModelNotTaken if this host lacks a model.
        """
        self._check_new(sources)
        models = {source.name: self._announced(source.name) for source in sources}
        return {name: model for name, model in models.items() if model}

    def _announced(self, name: str) -> str:
        """Return the model that a source of another run keeps; "" for the configured model."""
        model, where = self._store.announced_model(name)
        if not model or name in self._models.settled:
            return ""
        if not self._models.has(model):
            raise ModelNotTaken(
                f"source {name}: its model {model} is not on this host; copy it with\n"
                f"  rsync -a {where}/ model/ && framegate models add model\n"
                f"or configure another one in [models.sources.{name}]"
            )
        return model

    def _check_new(self, sources: Sequence[RunSource]) -> None:
        faults = self._name_faults(sources)
        if faults:
            raise ConfigFaults(faults)
        new = {source.name: self._spec_of(source).url for source in sources}
        if self._saves is not None:
            current = {spec.name: spec.url for spec in self.specs()}
            faults = save_faults(self._saves, current | new, overwrite=True)
            if faults:
                raise ConfigFaults(faults)

    def _name_faults(self, sources: Sequence[RunSource]) -> list[str]:
        taken = {source.name: source for source in self._run.sources}
        faults = []
        for source in sources:
            name = source.name
            if not is_name(name):
                faults.append(f"{name!r} cannot name a source; a name is {NAME_RULE}")
            elif name in taken and taken[name].ending:
                faults.append(f"source {name}: it is being removed; add it again after that")
            elif name in taken:
                faults.append(
                    f"source {name}: the run already has a source of that name; use another name, "
                    "or remove that source first"
                )
            taken[name] = source
        return faults

    def _claim_new(self, source: RunSource, take_over: bool, by_hand: bool) -> RunSource:
        model = ""
        if take_over:
            model = self._announced(source.name)
        continues = self._store.claim(
            source.name,
            self._run.run,
            self._owner,
            take_over,
            by_hand,
            source.since,
            source.identity,
        )
        # The epoch is read after the claim: from then on no other run can begin an epoch.
        past = self._store.epoch(source.name)
        if continues:
            past = max(0, self._store.positions(source.name, ["decode"])["decode"].epoch - 1)
        else:
            self._store.reset_decode(source.name)
        return replace(source, past=past, model=model, continues=continues)

    def models(self) -> dict[str, str]:
        """Return the models that were chosen during the run, by source."""
        return {source.name: source.model for source in self._run.sources if source.model}

    def model_of(self, name: str) -> str:
        """Return the registry model of a source, chosen or configured; "" if it has none."""
        settled = self._models.settled
        return self.models().get(name) or settled.get(name, settled.get("", ""))

    def forget_models(self) -> None:
        """Remove the run's copies of models that are neither in use nor recent."""
        in_use: set[str | None] = set()
        for source in self._run.sources:
            in_use |= {source.model, source.before}
        self._models.forget_unused(in_use)

    def announce(self) -> None:
        """Announce the registry models of the sources in the store, for other hosts."""
        owned = [name for name in self.names() if name not in self._lost]
        models = {name: self.model_of(name) for name in owned}
        where = f"{socket.gethostname()}:{self._folder.path / 'models'}"
        self._store.announce_models(models, self._run.run, where)

    def use(self, models: Mapping[str, str]) -> None:
        """Store another model of these sources; `--resume` keeps it. Ignore removed sources."""
        sources = []
        for source in self._run.sources:
            model = models.get(source.name, source.model)
            if model != source.model:
                source = replace(source, model=model, before=source.model)
            sources.append(source)
        self._save(sources)  # workers get the models apart from the sources
        self._try_to_announce()

    def _try_to_announce(self) -> None:
        try:
            self.announce()
        except (StoreLost, StoreBusy, StoreRefused) as error:  # only other hosts need it
            log.warning("other hosts cannot be informed of models now: %s", error)

    def before(self, names: Collection[str]) -> dict[str, str]:
        """Return the previous model of each of these sources.

        ConfigFaults if there is no such source, or it had no other model.
        """
        self.check_known(names)
        models: dict[str, str] = {}
        faults = []
        for source in self._run.sources:
            if source.name not in names:
                continue
            if source.before is None:
                faults.append(f"source {source.name}: it had no other model")
            else:
                models[source.name] = source.before
        if faults:
            raise ConfigFaults(faults)
        return models

    def configure(
        self,
        filters: Mapping[str, ObjectFilter],
        rules: Mapping[str, str],
        spec_of: SpecOf,
    ) -> None:
        """Use these from now on; see `__init__`. The specs of sources change with `spec_of`."""
        self._configured_filters = filters
        self._rules = rules
        self._spec_of = spec_of
        self._take(self._run.sources)

    def filters(self) -> tuple[NamedFilter, ...]:
        """Return all object filters: those of the configuration, then the added ones."""
        return filters_of(self._run, self._configured_filters)

    def add_filter(self, new: NamedFilter, replaces: str = "") -> NamedFilter:
        """Store an object filter; `--resume` keeps it. Return it with its name. ConfigFaults.

        replaces  name of the added filter that is removed for it; "": none
        """
        known = self._models.labels()
        run = with_filter(self._run, self._configured_filters, new, known, self._rules, replaces)
        self._folder.write(run)
        self._run = run
        return run.filters[-1]

    def remove_filter(self, name: str) -> None:
        """Remove an added object filter. ConfigFaults if there is none of that name."""
        run = without_filter(self._run, self._configured_filters, name)
        self._folder.write(run)
        self._run = run

    def end(self, names: Collection[str], hands_over: bool = False) -> None:
        """Mark these sources as being removed. ConfigFaults if there is no such source.

        hands_over  another slot of a fleet continues them
        """
        self.check_known(names)
        sources = []
        for source in self._run.sources:
            if source.name in names:
                source = replace(source, ending=True, hands_over=hands_over)
            sources.append(source)
        self._write(sources)

    def check_known(self, names: Collection[str]) -> None:
        """Raise ConfigFaults if the run has no source of one of these names."""
        known = self.names()
        faults = [
            f"source {name}: the run has no such source; it has: {', '.join(known) or 'none'}"
            f"{did_you_mean(name, known)}"
            for name in names
            if name not in known
        ]
        if faults:
            raise ConfigFaults(faults)

    def drop(self, names: Collection[str]) -> None:
        """Remove these sources from the run; `release` must follow."""
        self._lost -= frozenset(names)
        self._parked -= frozenset(names)
        self._write(source for source in self._run.sources if source.name not in names)

    def lose(self, name: str) -> None:
        """Note that another run took a source over."""
        self._lost |= {name}
        self._take(self._run.sources)

    def park(self, names: Collection[str]) -> None:
        """Remove these sources from the workers; `--resume` continues with them."""
        if not self._parked.issuperset(names):
            self._parked |= frozenset(names).intersection(self.names())
            self._take(self._run.sources)

    def release(self, names: Collection[str] | None = None, removed: bool = False) -> None:
        """Release these sources in the store, or all that this run owns there.

        An unreachable store is no error. A run that never began is forgotten as well.
        """
        with contextlib.suppress(StoreLost, StoreBusy, StoreRefused):
            if names is None:
                names = self._store.sources()
            self._store.release_all(names, self._run.run, removed)
            if not self._run.begun:
                self._folder.forget()

    def _write(self, sources: Iterable[RunSource]) -> None:
        self._save(sources)
        self._take(self._run.sources)

    def _save(self, sources: Iterable[RunSource]) -> None:
        sources = tuple(sources)
        stays = self._run.stays or any(source.live for source in sources)
        run = structs.replace(self._run, sources=sources, stays=stays, begun=True)
        self._folder.write(run)
        self._run = run

    def _take(self, sources: Sequence[RunSource]) -> None:
        specs = {}
        for source in sources:
            if source.name in self._lost or source.name in self._parked:
                continue
            spec = self._spec_of(source)
            known = self._specs.get(source.name)
            if known is None or known != structs.replace(spec, generation=known.generation):
                self._generation += 1
                known = structs.replace(spec, generation=self._generation)
            specs[source.name] = known
        self._specs = specs
