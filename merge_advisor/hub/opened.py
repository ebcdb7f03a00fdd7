"""A hub folder, open: its parts, and the questions that what works on it asks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from merge_advisor.errors import InputError
from merge_advisor.hub.catalogue import OF_BASE, Catalogue
from merge_advisor.hub.deltas import HubDeltas
from merge_advisor.hub.filters import EntryFilter, read_filter
from merge_advisor.hub.index import HubIndex
from merge_advisor.hub.results import HubResults, savings_of
from merge_advisor.hub.texts import HubTexts
from merge_advisor.hub.values import HubBase, HubEntry, HubJudged, HubRun, HubSavings, HubVersion
from merge_advisor.hub.writing import written_by_one
from merge_advisor.plain_text import short_name


class OpenHub:
    """What `Hub` is made of, and all that adding, searching and planning need of it.

    >>> with Catalogue(Path("empty-hub")) as catalogue:
    ...     OpenHub(Path("empty-hub"), catalogue).count()
    0

    Args:
        folder: the hub folder.
        catalogue: its catalogue, open.
    """

    def __init__(self, folder: Path, catalogue: Catalogue) -> None:
        self.folder, self.catalogue = folder, catalogue
        self.deltas, self.texts, self.results = HubDeltas(catalogue), HubTexts(catalogue), HubResults(catalogue)
        self.index = HubIndex(folder / "vectors", self.deltas)
        self._counted: dict[int, tuple[tuple[int, int], int]] = {}

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the one lock of those who write, for the time of a block: of one write, others wait for it.

        Yields:
            Nothing.

        Raises:
            RunError: another process holds it for longer than one waits (the message says which), or nothing can be
                written there.
        """
        with written_by_one(self.folder):
            yield

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
            names = {item.base.digest: item.base.id for item in self.catalogue.bases(counted=False)}
            bases = ", ".join(names.get(entry.base, entry.base) for entry in found)
            raise InputError(
                f"hub {self.folder}: has '{short_name(str(name))}' on several bases ({bases}); give `base`"
            )
        return self.with_scores(found[0])

    def with_scores(self, entry: HubEntry) -> HubEntry:
        """Return an entry with its scores filled in.

        Args:
            entry: the entry.
        """
        return replace(entry, scores=self.results.scores(entry.number))

    def versions(self, name: str) -> tuple[HubVersion, ...]:
        """Return the versions of an id, the oldest first.

        Args:
            name: the id.
        """
        return self.catalogue.versions(name)

    def runs(self) -> tuple[HubRun, ...]:
        """Return the runs that were planned from it, the newest first."""
        return self.results.runs()

    def judged(self) -> tuple[HubJudged, ...]:
        """Return the gates, and the models judged for watched pools, that it was named for, the newest first."""
        return self.results.judged()

    def savings(self) -> HubSavings:
        """Return what runs and gates took together, and what scoring every candidate or a LoRA a task would have."""
        return savings_of(self.runs(), self.judged())

    def models_in(self, space: int) -> int:
        """Return how many models with a current id have a delta in a space.

        Args:
            space: its number.
        """
        stamp = self.catalogue.file.stamp
        if self._counted.get(space, (None, 0))[0] != stamp:  # counting a million takes longer than a search
            self._counted[space] = stamp, self.deltas.models_in(space)
        return self._counted[space][1]

    def base_of(self, named: str | None) -> HubBase:
        """Return the base that a name stands for.

        Args:
            named: id, digest, or the place it was added from; None: the one of most models.

        Raises:
            InputError: the hub has no models of it, or none at all.
        """
        bases = self.catalogue.bases(counted=named is None)
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
        return chosen if base is None else chosen.and_also(EntryFilter(OF_BASE, (base,)))
