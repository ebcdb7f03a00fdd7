"""`Hub`: a folder of models that can be added to, searched and planned from."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from merge_advisor.errors import RunError
from merge_advisor.hub.catalogue import CATALOGUE, Catalogue
from merge_advisor.hub.opened import OpenHub
from merge_advisor.hub.values import (
    HUB_EMBEDDINGS,
    HubAdded,
    HubCheck,
    HubScore,
    HubSearch,
)
from merge_advisor.hub.writing import check_can_be_made, now, writable

if TYPE_CHECKING:
    from merge_advisor.advisor.runs.run_folder import Run
    from merge_advisor.hub.adding import AddOptions
    from merge_advisor.hub.planning import PlanAsked
    from merge_advisor.hub_options import HubSearchOptions
    from merge_advisor.options import PlanOptions
    from merge_advisor.session_options import SessionOptions


class Hub(OpenHub):
    """A hub folder, open: a catalogue of models with their deltas and scores, and the vectors it is searched by.

    Any number of processes may read it, one at a time writes. A hub is for one thread; others open it for themselves.

    >>> with Hub.open("hub-example", make=True) as hub:
    ...     added = hub.add("adapters", base="base")
    ...     [hit.entry.id for hit in hub.search(like="a0", k=2).hits]
    ['a1', 'a2']

    Args:
        folder: the hub folder.
        catalogue: its catalogue, open.
    """

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

    # what changes it

    def add(self, pool: str | Path, *, base: str, **how: Unpack[AddOptions]) -> HubAdded:
        """Return what came of adding a pool: models that are new or changed are embedded, nothing is removed.

        Args:
            pool: folder of candidates, manifest, or hub ids.
            base: hub id, folder or GGUF file.
            how: `embeddings`, `template`, `wanted` and what `SessionOptions` has, see `AddOptions`.

        Raises:
            MergeAdvisorError: as `open_session`; RunError: another process writes, or nothing can be written.
        """
        from merge_advisor.hub.adding import add_pool, check_addable

        check_addable(pool, how.get("embeddings", HUB_EMBEDDINGS))
        with self.writing():  # where nothing can be written, no model is opened
            pass
        return add_pool(lambda: nullcontext(self), pool, base=base, **how)

    @classmethod
    def add_to(cls, folder: str | Path, pool: str | Path, *, base: str, **how: Unpack[AddOptions]) -> HubAdded:
        """Return what came of adding a pool to a hub folder; one that is not there is made once base and pool are open.

        So what is refused (an unknown embedding, no such base, a pool of which nothing fits) leaves no empty hub.

        >>> Hub.add_to("hub-added", "adapters", base="base").new[:2]
        ('a0', 'a1')

        Args:
            folder: the hub folder.
            pool: as of `add`.
            base: as of `add`.
            how: as of `add`.

        Raises:
            MergeAdvisorError: as `add`; RunError: the folder cannot be made.
        """
        from merge_advisor.hub.adding import add_pool, check_addable

        folder = Path(folder)
        if (folder / CATALOGUE).is_file():
            with cls.open(folder) as hub:
                return hub.add(pool, base=base, **how)
        check_addable(pool, how.get("embeddings", HUB_EMBEDDINGS))
        check_can_be_made(folder)
        return add_pool(lambda: cls.open(folder, make=True), pool, base=base, **how)

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
        with self.writing():
            entry = self.entry(name)
            self.results.keep_score(entry.number, score, now())

    def remove(self, name: str, *, base: str | None = None) -> int:
        """Return how many entries went with an id: those that no other id stands for, with deltas and scores.

        Args:
            name: the id, of which all versions go.
            base: as of `entry`.

        Raises:
            InputError: no such id.
            RunError: another process writes, or nothing can be written.
        """
        with self.writing(), self.catalogue.file.transaction():
            entry = self.entry(name, base=base)  # what it stands for now, not before another process wrote
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
