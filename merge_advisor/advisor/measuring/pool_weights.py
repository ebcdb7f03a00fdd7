"""The pool's weights: the weight delta of a candidate, read when it is needed, and of a merge of candidates."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from merge_advisor import registry
from merge_advisor.compose.layers import compose_layers
from merge_advisor.compose.mask_cache import MaskCache
from merge_advisor.compose.sparse import SparseComposition
from merge_advisor.compose.truncate import DEFAULT_RANK, truncate
from merge_advisor.errors import PoolError
from merge_advisor.weights.naming import count_blocks
from merge_advisor.weights.opened import read_candidate
from merge_advisor.weights.updates import LowRankUpdate, Update, WeightDelta

if TYPE_CHECKING:
    from merge_advisor.compose import MergeRule
    from merge_advisor.merges import WeightedMerge
    from merge_advisor.types import Candidate
    from merge_advisor.weights.base import LocalBase

_T = TypeVar("_T")

KEPT_BYTES = 2**29
"""Bytes of adapters kept in memory, at most."""
_KEPT_AT_LEAST = 2**26
"""The same of a small base: what is merged again and again."""
_KEPT_SHARE = 8
"""Of a base in between, as much as this part of its weights takes in float32."""
_OPENED = 2**10
"""Bytes of an update beside its numbers: where it lies."""
KEPT_RULES = 2
"""Compositions whose masks are kept in memory: a search over densities has a new one for each trial."""


class MergedWeights(NamedTuple):
    """A merge carried out, and what cutting it to a rank lost.

    >>> from merge_advisor.merges import WeightedMerge
    >>> MergedWeights(WeightedMerge(), {}, 0.0).rank_error
    0.0
    """

    merge: WeightedMerge
    """Its rank is the one it was cut to."""
    delta: WeightDelta
    rank_error: float
    """Relative Frobenius error of the cut; 0 where nothing was cut."""


@dataclass(frozen=True, eq=False)
class PoolWeights:
    """Weight deltas of the candidates of one base, by fingerprint; those read last stay in memory.

    >>> from merge_advisor.advisor.measuring.session import open_session
    >>> with open_session("base", "adapters") as session:
    ...     delta = session.weights.of(session.pool.candidates[0])
    >>> sorted(delta)[0], delta[sorted(delta)[0]].rank
    ('model.layers.0.self_attn.q_proj.weight', 4)
    """

    local: LocalBase
    made: Mapping[str, WeightDelta] = field(default_factory=dict, repr=False)
    """Weights of candidates that are in no file, by fingerprint: see `with_made`."""
    _read: dict[str, WeightDelta] = field(default_factory=dict, repr=False)
    _sizes: dict[str, int] = field(default_factory=dict, repr=False)
    """Bytes of what was read, in the same order."""
    _rules: dict[str, MergeRule] = field(default_factory=dict, repr=False)

    def of(self, candidate: Candidate) -> WeightDelta:
        """Return the weight delta of a candidate.

        Raises:
            PoolError: its files changed since the pool was opened.
        """
        delta = self._known(candidate)
        if delta is None:
            delta = self._whole(candidate)
            # only now: a file that cannot be read must fail again, not be remembered as empty
            self._keep_read(candidate.fingerprint, delta)
            # the first ones go; the newest stays, however large it is: a dict keeps the order in which it was filled
            while sum(self._sizes.values()) > self._room() and len(self._sizes) > 1:
                oldest = next(iter(self._sizes))
                del self._sizes[oldest], self._read[oldest]
        return delta

    def passing(self, candidate: Candidate) -> WeightDelta:
        """Return the weight delta of a candidate; it is kept only where there is room, and none goes for it.

        For what goes through a whole pool, one candidate after the other: of a pool that is too large to be kept it
        would otherwise keep the last ones, which are not those that it begins with again.

        Raises:
            PoolError: its files changed since the pool was opened.
        """
        delta = self._known(candidate)
        if delta is None:
            delta = self._whole(candidate)
            if sum(self._sizes.values()) + _size_of(delta) <= self._room():
                self._keep_read(candidate.fingerprint, delta)
        return delta

    def _known(self, candidate: Candidate) -> WeightDelta | None:
        # by fingerprint and not by id: one model under two ids is read once
        return self.made.get(candidate.fingerprint) or self._read.get(candidate.fingerprint)

    def _whole(self, candidate: Candidate) -> WeightDelta:
        try:
            delta = read_candidate(candidate, self.local)
            # a copy: what is read lazily must not be read again from a folder that changes
            return dict(delta) if candidate.kind == "adapter" else delta
        except OSError as error:
            raise PoolError(f"{candidate.id}: its files cannot be read any more ({error}); restore them") from error

    def unread(self, candidate: Candidate) -> WeightDelta:
        """Return the weight delta of a candidate, of which each update is read when it is looked at, and not kept.

        For what goes through a whole pool weight by weight: together the pool's weights need not fit into memory.

        Raises:
            PoolError: its files changed since the pool was opened; of a mapping's values, that one cannot be read.
        """
        delta = self._known(candidate)
        return read_candidate(candidate, self.local) if delta is None else delta

    def _keep_read(self, fingerprint: str, delta: WeightDelta) -> None:
        self._sizes[fingerprint] = _size_of(delta)
        self._read[fingerprint] = delta

    def _room(self) -> int:
        """Bytes of adapters that may be kept."""
        weights = 4 * sum(math.prod(shape) for shape in self.local.shapes.values())
        return min(KEPT_BYTES, max(_KEPT_AT_LEAST, weights // _KEPT_SHARE))

    def with_made(self, made: Mapping[str, WeightDelta]) -> PoolWeights:
        """Return the same weights and, for candidates that are in no file, these.

        Args:
            made: fingerprint -> weight delta.
        """
        return replace(self, made={**self.made, **made})

    def merged(self, merge: WeightedMerge, *, repeated: bool = False) -> WeightDelta:
        """Return the weight delta of a merge, cut to its rank where it has one; that of the base is empty.

        Args:
            merge: the merge.
            repeated: whether the same candidates are merged again and again, as a search does: the masks of
                compositions that have some are then kept in memory. The result is the same.

        Raises:
            SpecError: the composition cannot take these members.
            PoolError: as `of`.
        """
        if not merge.members:  # some compositions refuse to merge nothing
            return {}
        delta = self._composed(merge, repeated=repeated)
        return delta if merge.rank is None else truncate(delta, merge.rank)[0]

    def carry_out(self, merge: WeightedMerge) -> MergedWeights:
        """Return a merge's weight delta with what cutting it to its rank lost.

        Raises:
            SpecError: the composition cannot take these members.
            PoolError: as `of`.
        """
        delta = self._composed(merge)
        if merge.rank is None:
            return MergedWeights(merge, delta, 0.0)
        return MergedWeights(merge, *truncate(delta, merge.rank))

    def cut(self, merge: WeightedMerge, rank: int | None) -> MergedWeights:
        """Return a merge carried out, and cut where it has to be cut: the merge returned has the rank.

        That is where its factors have more than `rank` (or than servers take), and, if a rank was asked for, where the
        composition gives no factors. With a member that is no LoRA nothing is cut.

        Args:
            merge: the merge; its own rank is not looked at.
            rank: what the user asks for, or None.

        Raises:
            SpecError: the composition cannot take these members.
            InputError: a rank below 1.
        """
        # the factors say what has to be cut, so they are made before the rank is known, once
        merge = replace(merge, rank=None)
        delta = self._composed(merge)
        if any(candidate.kind != "adapter" for candidate in merge.candidates):
            return MergedWeights(merge, delta, 0.0)
        if registry.build("composition", merge.composition).low_rank:
            limit = rank or DEFAULT_RANK
            rank = limit if rank_of(delta) > limit else None
        if rank is None:
            return MergedWeights(merge, delta, 0.0)
        return MergedWeights(replace(merge, rank=rank), *truncate(delta, rank))

    def _composed(self, merge: WeightedMerge, *, repeated: bool = False) -> WeightDelta:
        deltas = [self.of(candidate) for candidate in merge.candidates]
        rule = self._rule(merge.composition) if repeated else registry.build("composition", merge.composition)
        return compose_layers(rule, deltas, merge.weights, merge.layers, count_blocks(self.local.shapes))

    def _rule(self, spec: str) -> MergeRule:
        """What a spec names, its masks kept between merges of the same members."""
        if spec not in self._rules:
            rule: MergeRule = registry.build("composition", spec)
            kept = MaskCache(rule) if isinstance(rule, SparseComposition) else rule
            _keep(self._rules, spec, kept, KEPT_RULES)
        return self._rules[spec]


def rank_of(delta: WeightDelta) -> int:
    """Return the largest rank of the factors of a weight delta; 0 where there are none.

    Args:
        delta: parameter name -> update.
    """
    updates = (delta[name] for name in delta)
    return max((update.rank for update in updates if isinstance(update, LowRankUpdate)), default=0)


def _size_of(delta: WeightDelta) -> int:
    """Bytes that a weight delta takes in memory: all of one that was read, where it lies of one that reads lazily."""
    return _OPENED * len(delta) + (sum(map(_bytes_of, delta.values())) if isinstance(delta, dict) else 0)


def _bytes_of(update: Update) -> int:
    return update.a.nbytes + update.b.nbytes if isinstance(update, LowRankUpdate) else 0


def _keep(kept: dict[str, _T], key: str, value: _T, most: int) -> None:
    """Add a value; where there are as many as may be, those added first go."""
    while len(kept) >= most:  # a dict keeps the order in which it was filled
        del kept[next(iter(kept))]
    kept[key] = value
