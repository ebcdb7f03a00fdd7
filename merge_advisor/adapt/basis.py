"""Training in the pool's directions: adapters of one base move its weights along a few directions more than others."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from merge_advisor.adapt.continuing import START_WORDS, STARTS, Continue, start_of, train_on
from merge_advisor.adapt.directions import Spectrum, by_weight, principal_inputs, spectrum
from merge_advisor.adapt.folds import FOLDS, check_folds
from merge_advisor.adapt.values import NOTHING, Adapted, Need
from merge_advisor.adapt.workbench import Workbench, untouched
from merge_advisor.arrays import Float64Array
from merge_advisor.backbone.shapes import BasisShape, LoraShape, PriorShape, Shape
from merge_advisor.json_form import digest_of
from merge_advisor.merges import WeightedMerge
from merge_advisor.weights.naming import block_of

FORMS = ("core", "output", "first", "prior")
SOURCES = ("pool", "random", "layer", "inputs")


@dataclass(frozen=True)
class Basis:
    """Train in the directions that the pool's adapters share, from zero or on top of the chosen merge.

    Of each module the directions are the leading eigenvectors of the pool's Σ_in and Σ_out (see `directions`); they
    cost no forward pass.

    >>> Basis().needs(), Basis(start="merge").needs()
    ('pool', 'merge')
    """

    form: str = "core"
    """"core": ΔW = U C V with K² numbers; "output": ΔW = U C, any input; "first": a LoRA whose A begins there; "prior":
    a LoRA in the coordinates of a Gaussian prior, so that no direction is forbidden."""
    count: int = 32
    """K, directions of each side."""
    shrinkage: float = 0.3
    """ρ of the prior: at 1 no direction is preferred."""
    start: str = "base"
    """As of `continue`."""
    source: str = "pool"
    """"pool"; or, to compare with: "random" (orthonormal), "layer" (the directions of another layer), "inputs" (with
    the form "first": the principal directions of what the module is given by the rows' prompts, no pool asked)."""
    anew: bool = False
    """As of `continue`."""
    likeness: bool = False
    """Count each adapter by the size of its weight in the chosen merge, as a share of the largest, and none less than
    0.1; otherwise all the same."""
    folds: int = FOLDS
    """As of `shots`."""
    choices: float = 1.0
    """As of `shots`."""
    scaled: bool = True
    """As of `continue`."""
    stop: str = "rows"
    """As of `continue`."""
    rate: float = 1.0
    """Factor on the rate, which is set for each form so that a step is about as large as a LoRA's."""

    name: ClassVar[str] = "basis"
    trains: ClassVar[str] = "a core between the pool's directions"
    cost: ClassVar[str] = "a finetune for each fold"

    def __post_init__(self) -> None:
        check_folds(self.folds)
        asked = ((self.form, FORMS, "form"), (self.start, STARTS, "start"), (self.source, SOURCES, "source"))
        for value, known, what in asked:
            if value not in known:
                raise ValueError(f"{what}={value} is none of {', '.join(known)}")
        if self.count < 1 or not 0 < self.shrinkage <= 1:
            raise ValueError(f"count={self.count}, shrinkage={self.shrinkage}: give 1 or more, and above 0 up to 1")
        if self.source == "inputs" and self.form != "first":
            raise ValueError(f"source=inputs knows directions of the input alone; give form=first, not {self.form}")

    def needs(self) -> Need:
        """Return that it needs the pool, and a merge where it begins there."""
        if self.source == "inputs" and self.start == "base":
            return "nothing"
        return "pool" if self.start in ("base", "mean") and not self.likeness else "merge"

    def passes(self, members: int) -> tuple[int, int]:
        """See `Adaptation.passes`."""
        trainings, measured = Continue(self.start, self.folds, scaled=self.scaled, stop=self.stop).passes(members)
        return trainings, measured + (self.source == "inputs")

    def adapt(self, bench: Workbench) -> Adapted:
        """See `Adaptation.adapt`."""
        begun = start_of(bench, self.start)
        # a start is near to what is wanted already: half the rate of zero
        rate = self.rate * _RATES[self.form] * (0.5 if begun.members else 1.0)
        how = Continue(self.start, self.folds, self.choices, rate, scaled=self.scaled, stop=self.stop, anew=self.anew)
        words = f"from {START_WORDS[self.start]}" if begun.members else "from zero"
        return train_on(bench, begun, self.shape(bench, begun), how, f"{words}, {_SOURCE_WORDS[self.source]}")

    def shape(self, bench: Workbench, begun: WeightedMerge = NOTHING) -> Shape:
        """Return what is trained.

        Args:
            bench: holds pool and rows.
            begun: the merge that it is trained on top of.

        Raises:
            PoolError: no adapter of the pool changes any of the weights that are trained.
        """
        rank, alpha = bench.settings.rank, bench.settings.alpha
        if self.source == "inputs":
            moments = bench.input_moments(begun, bench.learning)
            return LoraShape(bench.targets, rank, alpha, principal_inputs(moments, rank))
        spectra = self._spectra(bench)
        if self.form == "prior":
            return PriorShape({name: found.roots(self.shrinkage) for name, found in spectra.items()}, rank, alpha)
        if self.form == "first":
            first = {name: found.leading_inputs(rank, turned=bench.turned) for name, found in spectra.items()}
            return LoraShape(tuple(spectra), rank, alpha, first)
        both = {name: found.leading(self.count) for name, found in spectra.items()}
        free = self.form == "output"
        return BasisShape({name: (u, None if free else v) for name, (u, v) in both.items()}, _UNIT)

    def _spectra(self, bench: Workbench) -> dict[str, Spectrum]:
        weights = likeness_of(bench) if self.likeness else [1.0] * len(bench.candidates)

        def of_pool() -> dict[str, Spectrum]:
            deltas = [(bench.unread or bench.weights_of)(candidate) for candidate in bench.candidates]
            return spectrum(by_weight(deltas, bench.targets), weights)

        found = bench.once(digest_of(["spectrum", weights]), of_pool)
        if self.form in ("core", "output"):  # the others are LoRAs, which may leave the directions
            found = {name: one for name, one in found.items() if one.out_shares.size}
        if not found:
            raise untouched()
        if self.source == "random":
            rng = np.random.default_rng(bench.seed)
            return {name: _redrawn(found[name], rng) for name in sorted(found)}
        return _shifted(found) if self.source == "layer" else found


def likeness_of(bench: Workbench) -> list[float]:
    """Return what each candidate of the pool counts by its likeness to the task: its weight in the chosen merge.

    Args:
        bench: holds pool and merge; a merge without members leaves all the same.
    """
    sizes: dict[str, float] = {}
    for candidate, weight in bench.merge.members:
        sizes[candidate.fingerprint] = sizes.get(candidate.fingerprint, 0.0) + abs(weight)
    largest = max(sizes.values(), default=0.0)
    if not largest:
        return [1.0] * len(bench.candidates)
    return [max(sizes.get(candidate.fingerprint, 0.0) / largest, _LEAST) for candidate in bench.candidates]


_LEAST = 0.1
"""What an adapter counts that the rows did not choose: a spectrum of a few members alone would forget the pool."""
_SOURCE_WORDS = {
    "pool": "in the directions of the pool", "random": "in random directions",
    "layer": "in the directions of another layer", "inputs": "in the directions of what the rows give each module",
}  # fmt: skip
_UNIT = 2.0
"""What a trained number of 1 stands for in ΔW: with it a core's first steps are about as large as a LoRA's."""
_RATES = {"core": 1.0, "output": 1.0, "first": 1.0, "prior": 0.125}
"""Factor on the rate of each form: in whitened coordinates a step goes several times as far."""


def _redrawn(found: Spectrum, rng: np.random.Generator) -> Spectrum:
    """Random orthonormal directions with the shares the pool's have."""

    def drawn(like: Float64Array) -> Float64Array:
        vectors: Float64Array = np.linalg.qr(rng.normal(size=like.shape))[0]
        return vectors

    return replace(found, out=drawn(found.out), width=drawn(found.width))


def _shifted(found: dict[str, Spectrum]) -> dict[str, Spectrum]:
    """Each weight with the directions that the same kind of weight has half of the blocks further on."""
    kinds: dict[tuple[str, tuple[int, int]], list[str]] = {}
    for name in sorted(found, key=lambda name: ((block_of(name) or ("", -1))[1], name)):
        block = block_of(name)
        kind = name.removeprefix(block[0]) if block else name
        kinds.setdefault((kind, found[name].shape), []).append(name)
    shifted: dict[str, Spectrum] = {}
    for names in kinds.values():
        away = len(names) // 2
        shifted |= {name: found[names[(place + away) % len(names)]] for place, name in enumerate(names)}
    return shifted
