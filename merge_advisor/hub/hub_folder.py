"""`Hub`: a folder of models that can be added to, searched and planned from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from merge_advisor.errors import InputError, RunError
from merge_advisor.hub.catalogue import CATALOGUE, Catalogue
from merge_advisor.hub.deltas import HubDeltas
from merge_advisor.hub.filters import EntryFilter, read_filter
from merge_advisor.hub.index import HubIndex
from merge_advisor.hub.texts import HubTexts
from merge_advisor.hub.values import (
    HubAdded,
    HubBase,
    HubCheck,
    HubEntry,
    HubRun,
    HubScore,
    HubSearch,
    HubVersion,
)
from merge_advisor.hub.writing import now, writable, written_by_one
from merge_advisor.plain_text import short_name

if TYPE_CHECKING:
    from merge_advisor.advisor.measuring.session import PoolFilter
    from merge_advisor.advisor.runs.run_folder import Run
    from merge_advisor.hub.planning import PlanAsked
    from merge_advisor.hub_options import HubSearchOptions
    from merge_advisor.options import PlanOptions
    from merge_advisor.session_options import SessionOptions


class Hub:
    """A hub folder, open: a catalogue of models with their deltas and scores, and the vectors it is searched by.

    Any number of processes may read it, one at a time writes. A hub is for one thread; others open it for themselves.

    >>> with Hub.open("hub-example", make=True) as hub:
    ...     added = hub.add("adapters", base="base")
    ...     [hit.entry.id for hit in hub.search(like="a0", k=2).hits]
    ['a2', 'a1']

    Args:
        folder: the hub folder.
        catalogue: its catalogue, open.
    """

    def __init__(self, folder: Path, catalogue: Catalogue) -> None:
        self.folder, self.catalogue = folder, catalogue
        self.deltas, self.texts = HubDeltas(catalogue), HubTexts(catalogue)
        self.index = HubIndex(folder / "vectors", self.deltas)
        self._counted: dict[int, tuple[tuple[int, int], int]] = {}

    @classmethod
    def open(cls, folder: str | Path, *, make: bool = False) -> Hub:
        """Return a hub folder, open; where nothing may be written there, for reading.

        Args:
            folder: the hub folder.
            make: make it where there is none.

        Raises:
            RunError: there is none and none is to be made, or it is damaged or of a newer version.
        """
        folder = Path(folder)
        if not make and not (folder / CATALOGUE).is_file():
            raise RunError(f"hub {folder}: is no hub folder (no {CATALOGUE}); make one with `merge-advisor hub add`")
        return cls(folder, Catalogue(folder, make=make, frozen=not make and not writable(folder)))

    def close(self) -> None:
        """Close the catalogue; the hub cannot be used afterwards."""
        self.index.close()
        self.catalogue.close()

    def __enter__(self) -> Hub:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the one lock of those who write, for the time of a block.

        Yields:
            Nothing.

        Raises:
            RunError: another process holds it (the message says which), or nothing can be written there.
        """
        with written_by_one(self.folder):
            yield

    # what is in it

    def bases(self) -> tuple[HubBase, ...]:
        """Return the bases it holds models of, the one with most models first."""
        return self.catalogue.bases()

    def entries(self, wanted: str = "", *, limit: int | None = None, offset: int = 0) -> tuple[HubEntry, ...]:
        """Return its models in the order they were added.

        Args:
            wanted: a filter, as `licence=apache-2.0,rank<=16`; empty: all.
            limit: how many at most.
            offset: how many are passed over first.

        Raises:
            InputError: a filter that is none.
        """
        return self.catalogue.entries(read_filter(wanted), limit=limit, offset=offset)

    def count(self, wanted: str = "") -> int:
        """Return how many models it has.

        Args:
            wanted: a filter, as of `entries`.

        Raises:
            InputError: a filter that is none.
        """
        return self.catalogue.count(read_filter(wanted))

    def entry(self, name: str | int, *, base: str | None = None) -> HubEntry:
        """Return one model with its scores.

        Args:
            name: its id or an alias; or its number, with which versions of before are found too.
            base: of which it is, as of `base_of`, where the hub has models of that name on several.

        Raises:
            InputError: there is none, or there are several.
        """
        if isinstance(name, int):
            found = list(self.catalogue.by_number([name]).values())
        else:
            found = list(self.catalogue.named(name))
        if base is not None and found:
            found = [entry for entry in found if entry.base == self.base_of(base).base.digest]
        if not found:
            some = ", ".join(map(short_name, self.catalogue.ids_like(str(name))))
            raise InputError(f"hub {self.folder}: has no model '{short_name(str(name))}'; it has, for example: {some}")
        if len(found) > 1:
            names = {item.base.digest: item.base.id for item in self.bases()}
            bases = ", ".join(names[entry.base] for entry in found)
            raise InputError(
                f"hub {self.folder}: has '{short_name(str(name))}' on several bases ({bases}); give `base`"
            )
        return self.with_scores(found[0])

    def with_scores(self, entry: HubEntry) -> HubEntry:
        """Return an entry with its scores filled in.

        Args:
            entry: the entry.
        """
        return replace(entry, scores=self.catalogue.scores(entry.number))

    def versions(self, name: str) -> tuple[HubVersion, ...]:
        """Return the versions of an id, the oldest first.

        Args:
            name: the id.
        """
        return self.catalogue.versions(name)

    def runs(self) -> tuple[HubRun, ...]:
        """Return the runs that were planned from it, the newest first."""
        return self.catalogue.runs()

    def models_in(self, space: int) -> int:
        """Return how many models with a current id have a delta in a space.

        Args:
            space: its number.
        """
        stamp = self.catalogue.file.stamp
        if self._counted.get(space, (None, 0))[0] != stamp:  # counting a million takes longer than a search
            self._counted[space] = stamp, self.deltas.models_in(space)
        return self._counted[space][1]

    # what changes it

    def add(
        self,
        pool: str | Path,
        *,
        base: str,
        embeddings: Sequence[str] = ("delta_activations",),
        template: str | None = None,
        wanted: PoolFilter | None = None,
        **where: Unpack[SessionOptions],
    ) -> HubAdded:
        """Return what came of adding a pool: models that are new or changed are embedded, nothing is removed.

        Args:
            pool: folder of candidates, manifest, or hub ids.
            base: hub id, folder or GGUF file.
            embeddings: specs; each model gets a delta in the space of each.
            template: prompt template of the pool; None: its own.
            wanted: which models of the pool are added; None: all that fit the base.
            where: `offline`, `cache`, `store`, `machine`, `progress`, see `SessionOptions`.

        Raises:
            MergeAdvisorError: as `open_session`; RunError: another process writes, or nothing can be written.
        """
        from merge_advisor.hub.adding import add_pool

        return add_pool(self, pool, base=base, embeddings=embeddings, template=template, wanted=wanted, **where)

    def add_run(self, run: Run) -> int:
        """Return how many scores of models that stand in the hub a scored run has brought it; the run is listed.

        Args:
            run: a run folder, read.

        Raises:
            RunError: another process writes, or nothing can be written.
        """
        from merge_advisor.hub.run_scores import add_run_scores

        return add_run_scores(self, run)

    def add_score(self, name: str | int, score: HubScore) -> None:
        """Keep what a model reached on a task; of the same task, rows, metric and evaluator the last one stays.

        Args:
            name: the model, as of `entry`.
            score: what it reached.

        Raises:
            InputError: no such model.
            RunError: another process writes, or nothing can be written.
        """
        entry = self.entry(name)
        with self.writing():
            self.catalogue.keep_score(entry.number, score, now())

    def remove(self, name: str, *, base: str | None = None) -> int:
        """Return how many entries went with an id: those that no other id stands for, with deltas and scores.

        Args:
            name: the id, of which all versions go.
            base: as of `entry`.

        Raises:
            InputError: no such id.
            RunError: another process writes, or nothing can be written.
        """
        entry = self.entry(name, base=base)
        with self.writing(), self.catalogue.file.transaction():
            gone = self.catalogue.drop_name(entry.base, name)
            for number in set(self.catalogue.by_number([entry.number])) - set(gone):
                self.texts.keep_text(number)  # it has lost a name
        return len(gone)

    # what it is for

    def search(
        self, *, like: str | None = None, task: str | Path | None = None, text: str | None = None, k: int = 10,
        base: str | None = None, options: HubSearchOptions | None = None, **where: Unpack[SessionOptions],
    ) -> HubSearch:  # fmt: skip
        """Return the models most like a model, a task or a text; exactly one of these is given.

        Args:
            like: id of a model of the hub: by the cosine of the deltas.
            task: file of examples: the same, with the delta of a LoRA finetuned on them; loads the base.
            text: words, looked for in names, cards and tags.
            k: how many at most.
            base: id, digest, folder or file of the base; None: the only one, or with `task` the one of most models.
            options: filter, embedding, fields of the examples.
            where: as of `add`; looked at with `task` alone.

        Raises:
            InputError: none or several of the three, no such model, or a filter that is none.
            MergeAdvisorError: with `task`: as `plan`.
        """
        from merge_advisor.hub.searching import Asked, search_hub

        return search_hub(self, Asked(like, task, text, k, base), options, **where)

    def plan(
        self, task: str | Path | Sequence[str | Path] = (), *, out: str | Path, base: str | None = None,
        options: PlanOptions | None = None, asked: PlanAsked | None = None, **where: Unpack[SessionOptions],
    ) -> Run:  # fmt: skip
        """Return the run of what to merge for a task: `plan` on a shortlist of the hub, named by its index.

        Args:
            task: file of examples, or several for one merge that serves all.
            out: the run folder to make.
            base: as of `plan`; None: the one that the hub has most models of.
            options: of the plan; its filters on ids and licences choose among the hub's models.
            asked: size of the shortlist, filter, and what else `plan` takes.
            where: as of `add`.

        Raises:
            MergeAdvisorError: as `plan`; InputError: the hub has no model of that base, or none that fits.
        """
        from merge_advisor.hub.planning import plan_from_hub

        tasks = [Path(task)] if isinstance(task, (str, Path)) else [Path(item) for item in task]
        return plan_from_hub(self, tasks, out=Path(out), base=base, options=options, asked=asked, **where)

    def check(self, *, repair: bool = False) -> HubCheck:
        """Return what is wrong with it; everything is read.

        Args:
            repair: make vectors and text index anew from the catalogue, and drop damaged rows of that.

        Raises:
            RunError: the catalogue cannot be read; with `repair`: another process writes, or nothing can be written.
        """
        from merge_advisor.hub.checking import check_hub

        return check_hub(self, repair=repair)

    def export(self, out: str | Path) -> int:
        """Return how many rows were written: a Parquet file of all models, a row for each model and space.

        Args:
            out: a file that ends in .parquet.

        Raises:
            RunError: it cannot be written.
        """
        from merge_advisor.hub.exporting import export_hub

        return export_hub(self, Path(out))

    def base_of(self, named: str | None) -> HubBase:
        """Return the base that a name stands for.

        Args:
            named: id, digest, or the place it was added from; None: the one of most models.

        Raises:
            InputError: the hub has no models of it, or none at all.
        """
        bases = self.bases()
        if not bases:
            raise InputError(f"hub {self.folder}: holds no models; add some with `merge-advisor hub add POOL`")
        if named is None:
            return bases[0]
        place = str(Path(named).expanduser().absolute())
        for item in bases:
            if named in (item.base.id, item.base.digest, item.place) or place == item.place:
                return item
        known = ", ".join(item.base.id for item in bases)
        raise InputError(
            f"hub {self.folder}: holds no models of base {short_name(named)}, but of {known}; give another `base`"
        )

    def filtered(self, text: str, base: str | None = None) -> EntryFilter:
        """Return the filter that a text and a base make.

        Args:
            text: as of `entries`.
            base: digest of a base; None: any.

        Raises:
            InputError: a filter that is none.
        """
        chosen = read_filter(text)
        return chosen if base is None else chosen.and_also(EntryFilter("e.base = ?", (base,)))
