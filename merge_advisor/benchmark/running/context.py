"""What all units of a benchmark share: the setup, and what measuring needs, open."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from merge_advisor.advisor.measuring.deltas import EmbeddedCandidates, take_deltas
from merge_advisor.advisor.measuring.meter import MergeMeter
from merge_advisor.advisor.measuring.session import open_session, session_on
from merge_advisor.benchmark.running.rows import read_families
from merge_advisor.benchmark.setup import SetupPlaces
from merge_advisor.benchmark.values import Setup
from merge_advisor.errors import PoolError
from merge_advisor.json_form import digest_of
from merge_advisor.progress import quiet_progress

if TYPE_CHECKING:
    from merge_advisor.session_options import SessionOptions
    from merge_advisor.store import Store
    from merge_advisor.types import Candidate


def seed_of(*parts: object) -> int:
    """Return a seed below 2^48 that follows from the parts.

    >>> seed_of(0, "task", 1) == seed_of(0, "task", 1) != seed_of(0, "task", 2)
    True

    Args:
        parts: JSON values.
    """
    return int(digest_of(list(parts))[:12], 16)


@dataclass(frozen=True, eq=False)
class BenchContext:
    """What all units share.

    >>> sorted(BenchContext.__annotations__)
    ['cache', 'embedded', 'families', 'meter', 'refused', 'setup']
    """

    setup: Setup
    meter: MergeMeter
    """Base, weights of the pool, and what was measured before."""
    cache: Path
    """Folder of the LoRAs of the shots."""
    families: dict[str, str]
    """Task or candidate name to family."""
    embedded: EmbeddedCandidates
    """The pool's candidates and their deltas."""
    refused: tuple[str, ...] = ()
    """Models of the pool that were set aside, each with its reason."""

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """The pool's, in the order of the deltas."""
        return self.embedded.candidates


@contextmanager
def open_context(
    setup: Setup, places: SetupPlaces, *, on: Store | None = None, **where: Unpack[SessionOptions]
) -> Iterator[BenchContext]:
    """Yield base, pool and store, open, with the deltas of the pool.

    Args:
        setup: the benchmark.
        places: where base, pool and families are.
        on: the store, where it is open already, as a worker's is.
        where: `offline`, `follow_links`, `cache`, `store`, `machine`, `beside`, `progress`, see `SessionOptions`; the
            progress is of what is not in the store yet, the units report none.

    Raises:
        PoolError: no model of the pool can be used.
        MergeAdvisorError: as `open_session` and `take_deltas`.
    """
    families = read_families(places.families)
    template = setup.template or None
    if on is None:
        opened = open_session(places.base, places.pool, template=template, **where)
    else:
        opened = session_on(on, places.base, places.pool, template=template, **where)
    with opened as session:
        embedded = take_deltas(session.meter, setup.embedding, session.pool.candidates)
        refused = [f"{item.id}: {item.reason}" for item in (*session.pool.refused, *embedded.refused)]
        if not embedded.candidates:
            raise PoolError(f"no model of the pool can be used ({refused[0]}); give another `pool`")
        session.model.progress = quiet_progress  # a unit's steps would drown the benchmark's own progress
        yield BenchContext(setup, session.meter, session.cache, families, embedded, tuple(refused))
