"""A session opens what measuring needs (base, pool, store) and closes it. The steps take the parts they need of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Unpack

from merge_advisor import templates
from merge_advisor.advisor.measuring.common_disk import (
    COMMON_DISK,
    absolute_place,
    check_base_seen,
    worker_store,
)
from merge_advisor.advisor.measuring.crew import Crew, Measurement
from merge_advisor.advisor.measuring.memo import Memo
from merge_advisor.advisor.measuring.meter import MergeMeter
from merge_advisor.advisor.measuring.pool_weights import PoolWeights
from merge_advisor.advisor.measuring.prompted_model import PromptedModel
from merge_advisor.backbone.devices import settle
from merge_advisor.backbone.memory import devices_for
from merge_advisor.errors import BaseModelError
from merge_advisor.limits import check_limits
from merge_advisor.machine_options import Machine
from merge_advisor.pool import open_pool
from merge_advisor.progress import quiet_progress
from merge_advisor.session_options import SessionOptions
from merge_advisor.store import Store, StoreNews
from merge_advisor.types import Pool
from merge_advisor.weights.base import LocalBase, resolve_base
from merge_advisor.weights.opened import changed_names
from merge_advisor.weights.text_ends import adds_begin_token, other_ends


def default_cache() -> Path:
    """Return where stores and dequantised bases go: $MERGE_ADVISOR_CACHE, or merge-advisor in the user's cache."""
    named = os.environ.get("MERGE_ADVISOR_CACHE")
    return Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "merge-advisor"


@dataclass(frozen=True, eq=False)
class Session:
    """An open base, pool and store; a context manager, whose end closes the store.

    Only who opens a session holds it. A step is given the part it needs: the model under its template, the pool's
    weights, the memo of measurements, or the meter, which is these three together.

    >>> with open_session("base", "adapters") as session:
    ...     [candidate.id for candidate in session.pool.candidates]
    ['a0', 'a1', 'a2', 'b0', 'b1', 'b2']
    """

    pool: Pool
    meter: MergeMeter
    cache: Path

    @property
    def model(self) -> PromptedModel:
        """The base under the pool's template; loaded into memory when something is computed."""
        return self.meter.model

    @property
    def weights(self) -> PoolWeights:
        """The weight deltas of the pool's candidates."""
        return self.meter.weights

    @property
    def memo(self) -> Memo:
        """What was measured before."""
        return self.meter.memo

    @property
    def local(self) -> LocalBase:
        """The base's files."""
        return self.meter.model.local

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.memo.store.close()


@dataclass(frozen=True, slots=True)
class PoolFilter:
    """Which models of a pool are candidates: globs on ids and licences, as `pool.open_pool` takes them.

    >>> with open_session("base", "adapters", wanted=PoolFilter(include=("a*",), exclude=("a0",))) as session:
    ...     [candidate.id for candidate in session.pool.candidates]
    ['a1', 'a2']
    """

    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    licence: Sequence[str] = ()
    copies: bool = False
    """Whether models of equal weights are all candidates; else the first alone is."""
    runs: bool = True
    """Whether the merge of a run folder among them is one."""


def open_session(
    base: str,
    pool: str | Path | None = None,
    *,
    template: str | None = None,
    wanted: PoolFilter | None = None,
    dry: bool = False,
    **where: Unpack[SessionOptions],
) -> Session:
    """Return a session: the base found (fetched or dequantised where needed), the store and the pool open.

    Args:
        base: hub id, folder or GGUF file.
        pool: folder of candidates, manifest, or hub ids; None: there is none.
        template: name of the prompt template; None: the pool's.
        wanted: which models of the pool are candidates; None: all that fit the base.
        dry: nothing is to be measured, so that no store is made where there is none.
        where: `offline`, `follow_links`, `cache`, `store`, `machine`, `beside`, `progress`, see `SessionOptions`.

    Raises:
        BaseModelError: no such base, or it cannot be read.
        PoolError: no such pool, or nothing in it fits.
        OfflineError: something has to be fetched and `offline` forbids it.
        RunError: the store cannot be opened.
        InputError: $MERGE_ADVISOR_LIMITS cannot be read.
    """
    check_limits()
    cache = where.get("cache") or default_cache()
    # the store first: it remembers the hashes of files, so that a known base or pool is not read again
    store = Store(where.get("store") or cache / "store.sqlite", make=not dry)
    session = session_on(store, base, pool, template=template, wanted=wanted, **where)
    engine = where.get("beside")
    if dry or engine is None or not engine.beside:
        return session
    meter, asked = session.meter, where.get("machine") or Machine()
    # its dtype, which is part of every key, is settled; its device is not, since each machine has others
    machine = replace(asked, dtype=meter.model.machine.dtype)
    opening = SessionOpening(
        absolute_place(base), meter.model.local.base.digest, meter.model.template.name, cache.absolute(),
        where.get("offline", False), machine,
    )  # fmt: skip
    crew = Crew(engine, machine, lambda copy: replace(opening, before=copy), store, cache.absolute())
    return replace(session, meter=replace(meter, crew=crew))


def session_on(
    kept_in: Store,
    base: str,
    pool: str | Path | None = None,
    *,
    template: str | None = None,
    wanted: PoolFilter | None = None,
    **where: Unpack[SessionOptions],
) -> Session:
    """Return a session on a store that is open, and that the session closes, or this function where it fails.

    Args:
        kept_in: the store.
        base: as of `open_session`.
        pool: as of `open_session`.
        template: as of `open_session`.
        wanted: as of `open_session`.
        where: as of `open_session`; its `store` and `beside` are not looked at.

    Raises:
        MergeAdvisorError: as `open_session`.
    """
    cache = where.get("cache") or default_cache()
    machine, offline = where.get("machine") or Machine(), where.get("offline", False)
    wanted = wanted or PoolFilter()
    try:
        progress = where.get("progress", quiet_progress)
        local = resolve_base(base, offline=offline, cache=cache / "base", hashes=kept_in.hashes, progress=progress)
        opened = Pool((), ())
        if pool is not None:
            opened = open_pool(
                pool, local, offline=offline, follow_links=where.get("follow_links", False), hashes=kept_in.hashes,
                include=wanted.include, exclude=wanted.exclude, licence=wanted.licence, copies=wanted.copies,
                runs=wanted.runs, cache=cache / "pool", progress=progress,
            )  # fmt: skip
        name = template or opened.template
        # only "chat" is a property of the base: the other templates need no file of it
        chat = templates.read_chat(local.path) if name == "chat" else ()
        asked = machine.device
        machine, said = settle(machine, local.config)
        device_map = devices_for(
            asked, machine, local.path, local.shapes, local.config, lambda: changed_names(opened.candidates, local)
        )
        if device_map is not None:
            machine = replace(machine, device=device_map.name)
        model = PromptedModel(local, templates.get(name, *chat), machine, progress, said, device_map)
        memo = Memo(kept_in, (local.base.digest, _prompts(model), machine.dtype))
        return Session(opened, MergeMeter(model, PoolWeights(local), memo), cache)
    except BaseException:  # an interrupt as well: an open store leaves its journal behind
        kept_in.close()
        raise


@dataclass(frozen=True, slots=True)
class SessionOpening:
    """What a worker opens to measure: the base, with a store of its own (`engine.work.Opening`).

    >>> SessionOpening("base", "a digest", "alpaca", Path("cache"), True, Machine(threads=1)).before
    """

    base: str
    """As `open_session` takes it; a worker of another machine has to find it there too."""
    digest: str
    """Of the base that is meant."""
    template: str
    cache: Path
    offline: bool
    machine: Machine
    before: Path | None = None
    """Copy of the store that it reads."""

    @contextmanager
    def open(self, threads: int) -> Iterator[Callable[[Measurement], tuple[Any, StoreNews]]]:
        """Yield what measures.

        Args:
            threads: of the processor.

        Yields:
            A function from a measurement to its value and the news of the store.

        Raises:
            BaseModelError: the worker does not see the base, or another one.
            MergeAdvisorError: as `open_session`.
        """
        check_base_seen(self.base)
        store = worker_store(self.before)
        session = session_on(
            store, self.base, template=self.template, cache=self.cache, offline=self.offline,
            machine=replace(self.machine, threads=threads),
        )  # fmt: skip
        with session:
            if session.local.base.digest != self.digest:
                raise BaseModelError(f"base {self.base}: is another model there; {COMMON_DISK}")

            def do(wanted: Measurement) -> tuple[Any, StoreNews]:
                value = wanted.measure(session.meter)
                return value, store.take_news()

            yield do


def _prompts(model: PromptedModel) -> str:
    """What prompts are like: the template's digest, a token put before them, and what an answer ends before.

    The last two are named only where there is such a token, and where answers end with another one than the base's end
    token: what was measured before they were part of it is found.
    """
    template, path = model.template, model.local.path
    begun = adds_begin_token(path) and not model.encoder_decoder and template.chat_template is None
    return template.digest + (" after a begin token" if begun else "") + other_ends(path, template.ending)
