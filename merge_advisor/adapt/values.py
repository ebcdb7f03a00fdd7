"""What adaptations ask to be trained, what comes of it, and what they answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from merge_advisor.backbone.training_loss import ANSWER_ALONE, TrainingLoss
from merge_advisor.json_form import STRICT, digest_of, to_plain
from merge_advisor.merges import WeightedMerge
from merge_advisor.options import FinetuneSettings
from merge_advisor.types import Candidate, Row

if TYPE_CHECKING:
    from merge_advisor.backbone.shapes import Shape

Need = Literal["nothing", "pool", "merge"]
"""What has to be there before an adaptation begins: the rows alone, the pool's weights, or a chosen merge as well."""
NOTHING = WeightedMerge()
"""The merge of nothing: the base."""


@dataclass(frozen=True, slots=True, eq=False)
class TrainingRequest:
    """One finetune: what is trained, from where, on what.

    >>> from merge_advisor.backbone.shapes import LoraShape
    >>> request = TrainingRequest(LoraShape(("q.weight",), 8, 16.0), rows=(Row("2 + 2", "4"),))
    >>> request.start.members, request.settings.lr
    ((), 0.002)
    """

    shape: Shape
    rows: tuple[Row, ...]
    """Rows trained on, at least one; unlabelled ones where the terms ask for no output."""
    watch: tuple[Row, ...] = ()
    """Rows that say when to stop; none of those trained on."""
    start: WeightedMerge = NOTHING
    """What is placed on the base before and while the numbers are trained."""
    settings: FinetuneSettings = field(default_factory=FinetuneSettings)
    terms: TrainingLoss = ANSWER_ALONE
    pull: float = 0.0
    """λ of the penalty towards the start, see `finetune.Pull`."""
    seed: int = 0
    weights: tuple[float, ...] = ()
    """What each watched row counts, see `Workbench.weights`; empty: all the same."""
    what: str = ""
    """What is trained, for the progress; the result does not depend on it."""

    def __post_init__(self) -> None:
        trained = () if not self.terms.needs_outputs else self.rows
        if not all(row.labelled for row in (*trained, *self.watch)):
            raise ValueError("an unlabelled row can be trained on by the entropy alone, and judges nothing")

    @property
    def key(self) -> list[object]:
        """JSON values of all that the result depends on beside base, template and dtype."""
        parts = [[row.digest for row in part] for part in (self.rows, self.watch)]
        how = [to_plain(self.settings), self.terms.key]
        # weights only where there are some: what was trained before there were any is found
        uneven = [["weights", self.weights]] if self.weights else []
        return [self.shape.digest, parts, self.start.key, *how, self.pull, self.seed, *uneven]

    @property
    def digest(self) -> str:
        """Sha256 of `key`."""
        return digest_of(self.key)


@dataclass(frozen=True, slots=True)
class TrainingRecord:
    """How something was trained.

    >>> TrainingRecord(steps=8, taken=16, watched=(1.2, 1.1), rows=(1.1,), numbers=256, forwards=204).steps
    8
    """

    __pydantic_config__ = STRICT

    steps: int
    """Optimiser steps behind it; 0: what it began with was best."""
    taken: int
    """Optimiser steps taken."""
    watched: tuple[float, ...]
    """Mean loss on the watched rows at each check."""
    rows: tuple[float, ...]
    """Loss of each watched row at the least mean; none where nothing was watched."""
    numbers: int
    """How many numbers were trained."""
    forwards: int
    """Cost in forward passes over one row."""


@dataclass(frozen=True, slots=True)
class Trained:
    """A trained adapter and how it came about.

    >>> record = TrainingRecord(steps=8, taken=16, watched=(), rows=(), numbers=256, forwards=192)
    >>> Trained(Candidate("residual", "adapter", "cache/trained/x/residual"), record).record.numbers
    256
    """

    candidate: Candidate
    record: TrainingRecord


@dataclass(frozen=True, slots=True)
class Alternative:
    """One way to use rows and pool, as `auto` compared it.

    >>> Alternative("continue", loss=1.04, error=0.05, forwards=240).name
    'continue'
    """

    __pydantic_config__ = STRICT

    name: str
    loss: float
    """Mean loss on the rows, each held out of the training it is judged by."""
    error: float
    """Standard error of its difference to the best one's loss; 0 of the best itself."""
    forwards: int
    """What it cost, in forward passes over one row."""
    gain: float = 0.0
    """How much less loss than `shots` it is believed to have on new rows, nats; what `auto` goes by."""


@dataclass(frozen=True, slots=True, eq=False)
class Adapted:
    """The model an adaptation makes.

    >>> Adapted(NOTHING, losses=(1.0, 2.0), reason="nothing is better than the base").merge.members
    ()
    """

    merge: WeightedMerge
    """Members of the pool with their weights, and what was trained at its own."""
    losses: tuple[float, ...] = ()
    """Loss of each row learned from, in their order, under models that were not trained on it; empty where none was."""
    numbers: int = 0
    """How many numbers were trained for it."""
    reason: str = ""
    """What was done, in one sentence."""
    settings: Mapping[str, object] = field(default_factory=dict)
    """What the training can be done again by: seed, rate, steps, terms."""
    options: tuple[Alternative, ...] = ()
    """What else was compared, the best first; of `auto`."""
    name: str = ""
    """Name of the adaptation that made it, where another one (`auto`) chose; "" for the one that was asked."""
    prompted: bool = False
    """Whether the model has the rows as examples in its prompt."""
    without_pool: WeightedMerge | None = None
    """The LoRA of the rows alone, as strong as it was made on the way; None where none was made."""
    chance: float | None = None
    """Of `auto`: probability that it has less loss than the best that needs no pool; None where it is that."""
