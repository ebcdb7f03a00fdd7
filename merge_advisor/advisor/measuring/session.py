"""One base, one pool, one store: what all steps of a plan share, loaded when first needed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from merge_advisor import registry, templates
from merge_advisor.backbone.encoding import ROW_TOKENS
from merge_advisor.compose.mask_cache import MaskCache
from merge_advisor.compose.sparse import SparseComposition
from merge_advisor.errors import PoolError
from merge_advisor.options import Machine
from merge_advisor.pool import open_pool
from merge_advisor.progress import Progress, quiet_progress
from merge_advisor.store import Store
from merge_advisor.templates import Template
from merge_advisor.types import Candidate, Pool, Row, digest_of
from merge_advisor.weights.adapter import read_adapter
from merge_advisor.weights.base import LocalBase, resolve_base
from merge_advisor.weights.checkpoint import read_checkpoint_delta
from merge_advisor.weights.updates import WeightDelta

if TYPE_CHECKING:
    from merge_advisor.backbone.encoding import EncodedChoices, EncodedRow
    from merge_advisor.backbone.model import Backbone
    from merge_advisor.compose import MergeRule

_Kept = TypeVar("_Kept")

KEPT_WEIGHTS = 64
"""Adapters kept in memory: a pool's worth for most, bounded for pools of thousands."""
KEPT_RULES = 2
"""Compositions whose masks are kept in memory: a search over densities has a new one for each trial."""


def default_cache() -> Path:
    """Return where stores and dequantised bases go: $MERGE_ADVISOR_CACHE, or merge-advisor in the user's cache."""
    named = os.environ.get("MERGE_ADVISOR_CACHE")
    return Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "merge-advisor"


@dataclass(eq=False)
class Session:
    """A base and a store, the base's weights loaded into memory when something has to be measured.

    A context manager: leaving it closes the store. `loaded` and `hits` feed the environment block of plan.json.
    """

    local: LocalBase
    pool: Pool
    template: Template
    store: Store
    cache: Path
    machine: Machine = field(default_factory=Machine)
    progress: Progress = quiet_progress
    hits: int = 0
    """Measurements found in the store."""
    misses: int = 0
    """Measurements made."""
    made: dict[str, WeightDelta] = field(default_factory=dict, repr=False)
    """Weights by fingerprint of candidates that are in no file."""
    _weights: dict[str, WeightDelta] = field(default_factory=dict, repr=False)
    _rules: dict[str, MergeRule] = field(default_factory=dict, repr=False)

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.store.close()

    @cached_property
    def backbone(self) -> Backbone:
        """The base in memory; the first use loads it (and torch)."""
        from merge_advisor.backbone.model import load_backbone

        self.progress("loading the base", 0, 1)
        found = load_backbone(
            self.local.path, device=self.machine.device, dtype=self.machine.dtype, threads=self.machine.threads
        )
        self.progress("loading the base", 1, 1)
        return found

    @property
    def encoder_decoder(self) -> bool:
        """Whether the base has an encoder, from its configuration alone."""
        return bool(self.local.config.get("is_encoder_decoder", False))

    @property
    def key(self) -> list[str]:
        """What every measured value depends on: base, template, dtype."""
        return [self.local.base.digest, self.template.digest, self.machine.dtype]

    def weights(self, candidate: Candidate) -> WeightDelta:
        """Return the weight delta of a candidate; the adapters read last stay in memory.

        Raises:
            PoolError: its files changed since the pool was opened.
        """
        found = self.made.get(candidate.fingerprint) or self._weights.get(candidate.fingerprint)
        if found is None:
            folder = Path(candidate.path)
            try:
                if candidate.kind == "adapter":
                    found = dict(read_adapter(folder, self.local.shapes))
                else:
                    found = read_checkpoint_delta(folder, self.local.path)
            except OSError as error:
                raise PoolError(f"{candidate.id}: its files cannot be read any more ({error}); restore them") from error
            _keep(self._weights, candidate.fingerprint, found, KEPT_WEIGHTS)
        return found

    def composition(self, spec: str) -> MergeRule:
        """Return what a spec names, for merges of the same members again and again: masks are kept.

        Raises:
            SpecError: unknown name or parameter.
        """
        if spec not in self._rules:
            rule: MergeRule = registry.build("composition", spec)
            _keep(self._rules, spec, MaskCache(rule) if isinstance(rule, SparseComposition) else rule, KEPT_RULES)
        return self._rules[spec]

    def encode(self, rows: Sequence[Row], max_length: int = ROW_TOKENS, *, cut: bool = False) -> list[EncodedRow]:
        """Turn rows into token ids under the pool's template, at most `max_length` (or the context) each.

        With `cut`, long answers are cut as well.

        Raises:
            TaskError: an answer longer than the context.
        """
        from merge_advisor.backbone.encoding import context_length, encode

        texts = [(self.template.prompt(row.input), self.template.completion(row.output)) for row in rows]
        names = [f"row {row.digest[:8]}" for row in rows]
        limit = min(max_length, context_length(self.backbone))
        return encode(self.backbone, texts, max_length=limit, names=names, cut=cut)

    def encode_choices(self, rows: Sequence[Row]) -> list[EncodedChoices]:
        """Turn rows that have choices into token ids, each choice as an answer of its own.

        Raises:
            TaskError: a choice longer than the context.
        """
        from merge_advisor.backbone.encoding import EncodedChoices

        found = []
        for row in rows:
            choices = row.choices or ()
            answers = self.encode([replace(row, output=choice) for choice in choices])
            found.append(EncodedChoices(tuple(answers), choices.index(row.output)))
        return found

    def remember(self, key: Sequence[object], measure: Callable[[], object]) -> object:
        """Return the stored value of `key` (with base, template and dtype), or measure and store it."""
        digest = digest_of([self.key, list(key)])
        found = self.store.measured(digest)
        if found is None:
            self.misses += 1
            found = measure()
            self.store.keep_measured(digest, found)
        else:
            self.hits += 1
        return found


def open_session(
    base: str,
    pool: str | Path | None = None,
    *,
    template: str | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    licence: Sequence[str] = (),
    cache: Path | None = None,
    store: Path | None = None,
    offline: bool = False,
    machine: Machine | None = None,
    progress: Progress = quiet_progress,
) -> Session:
    """Find the base (fetching or dequantising it where needed), open the store and the pool.

    Raises:
        BaseModelError: no such base, or it cannot be read.
        PoolError: no such pool, or nothing in it fits.
        OfflineError: something has to be fetched and `offline` forbids it.
        RunError: the store cannot be opened.
    """
    cache = cache or default_cache()
    opened = Store(store or cache / "store.sqlite")
    try:
        local = resolve_base(base, offline=offline, cache=cache / "base", hashes=opened.hashes)
        found = Pool((), ())
        if pool is not None:
            found = open_pool(
                pool, local, offline=offline, hashes=opened.hashes, include=include, exclude=exclude, licence=licence
            )
        name = template or found.template
        chat = templates.read_chat(local.path) if name == "chat" else ()
        return Session(
            local=local,
            pool=found,
            template=templates.get(name, *chat),
            store=opened,
            cache=cache,
            machine=machine or Machine(),
            progress=progress,
        )
    except BaseException:
        opened.close()
        raise


def _keep(kept: dict[str, _Kept], key: str, value: _Kept, most: int) -> None:
    """Add a value; where there are as many as may be, those added first go."""
    while len(kept) >= most:
        del kept[next(iter(kept))]
    kept[key] = value


def weights_key(
    members: Mapping[str, float] | Iterable[tuple[str, float]],
    composition: str = "exact",
    rank: int | None = None,
    layers: Sequence[float] = (),
) -> list[object]:
    """What a merge is, for a store key: fingerprints with weights (zeros dropped), composition, rank, layer factors.

    Members that may be one adapter under two ids come as pairs: as a mapping one of them would be lost.
    """
    pairs = members.items() if isinstance(members, Mapping) else members
    kept = sorted((fingerprint, weight) for fingerprint, weight in pairs if weight != 0)
    found: list[object] = ["merge", composition if kept else "", rank if kept else None, [list(pair) for pair in kept]]
    return [*found, list(layers)] if kept and layers else found
