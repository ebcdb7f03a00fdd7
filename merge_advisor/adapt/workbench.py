"""What an adaptation may use."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, Protocol, TypeVar

import numpy as np

from merge_advisor.adapt.task_weights import moments, row_weights
from merge_advisor.adapt.values import NOTHING, Adapted, Need, Trained, TrainingRequest
from merge_advisor.errors import InputError, PoolError, SpecError
from merge_advisor.json_form import digest_of
from merge_advisor.merges import WeightedMerge
from merge_advisor.options import FinetuneSettings
from merge_advisor.types import Candidate, Row

if TYPE_CHECKING:
    from merge_advisor.arrays import Float32Array, Float64Array
    from merge_advisor.weights.updates import WeightDelta

_T = TypeVar("_T")


@dataclass(eq=False)
class Workbench:
    """Rows, pool and chosen merge, and what can be done with them; counts the forward passes it takes.

    The callables measure and train on demand, and what was done before is remembered, so an adaptation may simply call
    them. Costs are nominal: what is remembered counts in full.

    >>> bench = Workbench(tasks=((Row("2 + 2", "4"), Row("2 + 3", "5")),), tuning=frozenset())
    >>> [row.output for row in bench.learning], bench.merge == NOTHING
    (['4', '5'], True)
    """

    tasks: tuple[tuple[Row, ...], ...]
    """The rows learned from, task by task: shots, then tuning rows."""
    tuning: frozenset[str]
    """Digests of the tuning rows among them."""
    inputs: tuple[Row, ...] = ()
    """Unlabelled rows given beside them."""
    merge: WeightedMerge = NOTHING
    """What the strategy chose."""
    candidates: tuple[Candidate, ...] = ()
    """The pool."""
    targets: tuple[str, ...] = ()
    """Names of the parameters that a LoRA changes."""
    turned: bool = False
    """Whether the base stores them (in, out), as GPT-2 does."""
    settings: FinetuneSettings = field(default_factory=FinetuneSettings)
    seed: int = 0
    run_training: Callable[[TrainingRequest], Trained] = field(repr=False, default=lambda request: _absent())
    run_losses: Callable[[WeightedMerge, Sequence[Row]], list[float]] = field(
        repr=False, default=lambda merge, rows: _absent()
    )
    run_gradient: Callable[[WeightedMerge, Sequence[Row]], Mapping[str, Float32Array]] = field(
        repr=False, default=lambda merge, rows: _absent()
    )
    run_moments: Callable[[WeightedMerge, Sequence[Row]], Mapping[str, Float32Array]] = field(
        repr=False, default=lambda merge, rows: _absent()
    )
    run_choice: Callable[[Sequence[Row]], tuple[WeightedMerge, int]] | None = field(repr=False, default=None)
    """Choose a merge by some of the rows alone, as `merge` was chosen by all, and say what that cost; None where it was
    not chosen so."""
    run_prompted: Callable[[Sequence[Row], Sequence[Row], WeightedMerge], list[float]] = field(
        repr=False, default=lambda shown, asked, merge: _absent()
    )
    run_fitting: Callable[[], int] | None = field(repr=False, default=None)
    """How many of the rows learned from fit into the prompt of `Adapted.prompted`; None where nobody can tell."""
    weights_of: Callable[[Candidate], WeightDelta] = field(repr=False, default=lambda candidate: {})
    unread: Callable[[Candidate], WeightDelta] | None = field(repr=False, default=None)
    """The same, of which each update is read when it is looked at, for going through a whole pool."""
    keep: Callable[[WeightDelta, str], Candidate] = field(repr=False, default=lambda delta, name: _absent())
    """Write a weight delta as an adapter under an id, and return it as a candidate."""
    forwards: int = 0
    """Forward passes over one row so far; a backward pass counts as two."""
    _charged: set[str] = field(repr=False, default_factory=set)
    _made: dict[str, Any] = field(repr=False, default_factory=dict)

    @property
    def learning(self) -> tuple[Row, ...]:
        """All rows learned from."""
        return tuple(row for rows in self.tasks for row in rows)

    @property
    def shots(self) -> tuple[Row, ...]:
        """The rows that are not for tuning."""
        return tuple(row for row in self.learning if row.digest not in self.tuning)

    @property
    def watch(self) -> tuple[Row, ...]:
        """The tuning rows."""
        return tuple(row for row in self.learning if row.digest in self.tuning)

    @property
    def pool_mean(self) -> WeightedMerge:
        """All of the pool at equal weights, which sum to 1."""
        return WeightedMerge(tuple((candidate, 1 / len(self.candidates)) for candidate in self.candidates))

    def weights(self, rows: Sequence[Row]) -> tuple[float, ...]:
        """Return what each row counts in a mean over tasks, nothing where all count the same: see `row_weights`.

        Args:
            rows: n of those learned from.
        """
        return row_weights(self.tasks, rows)

    def mean(self, losses: Sequence[float] | Float64Array, rows: Sequence[Row] | None = None) -> float:
        """Return the mean over tasks of the mean loss of a task's rows.

        Args:
            losses: of each row.
            rows: n of those learned from; None: all of them.
        """
        return moments(losses, self.weights(self.learning if rows is None else rows)).mean

    def once(self, key: str, make: Callable[[], _T]) -> _T:
        """Return what `make` gives, made at the first call with this key: what several adaptations need.

        Args:
            key: names it, and all that it depends on beside this workbench.
            make: makes it; what it costs is charged once.
        """
        if key not in self._made:
            self._made[key] = make()
        found: _T = self._made[key]
        return found

    def train(self, request: TrainingRequest) -> Trained:
        """Return what a request trains.

        Raises:
            InputError: the loss became infinite; a smaller rate is needed.
            RunError: the cache cannot be written.
        """
        trained = self.run_training(request)
        # once: adaptations that are compared with each other share what they train
        self.forwards += trained.record.forwards if request.digest not in self._charged else 0
        self._charged.add(request.digest)
        return trained

    def losses(self, merge: WeightedMerge, rows: Sequence[Row]) -> Float64Array:
        """Return what each row is judged by: nats over its choices where it has some, else nats per token.

        Args:
            merge: the model.
            rows: n rows, none of them trained on.

        Returns:
            (n,) float64.
        """
        asked = {f"{merge.digest} {row.digest}" for row in rows} - self._charged
        self.forwards += len(asked)
        self._charged |= asked
        return np.asarray(self.run_losses(merge, rows), dtype=np.float64)

    def chosen_by(self, rows: Sequence[Row]) -> WeightedMerge:
        """Return the merge that is chosen by some of the rows alone.

        Args:
            rows: of those learned from, at least one.

        Raises:
            SpecError: the merge was not chosen in a way that fewer rows could repeat.
            MergeAdvisorError: whatever choosing refuses.
        """
        if self.run_choice is None:  # the merge of all rows would be judged by rows that chose it
            raise SpecError(
                "this adaptation judges merges by rows that did not choose them, and nothing here can choose a merge "
                "by fewer rows; give another `adaptation`"
            )
        merge, forwards = self.run_choice(rows)
        self.forwards += forwards
        return merge

    def prompted(self, shown: Sequence[Row], asked: Sequence[Row], merge: WeightedMerge = NOTHING) -> Float64Array:
        """Return what each row is judged by under a model with other rows in its prompt, as many as fit.

        A forward pass for each row, and one for each example: all rows share the prompt that shows them. Charged once:
        adaptations that are compared with each other share what they ask.

        Args:
            shown: the examples.
            asked: n rows, none of the examples.
            merge: the model.

        Returns:
            (n,) float64.

        Raises:
            TaskError: not one example fits, or the base's chat template takes no earlier turns.
        """

        def ask() -> Float64Array:
            self.forwards += len(shown) + len(asked)
            return np.asarray(self.run_prompted(shown, asked, merge), dtype=np.float64)

        digests = [[row.digest for row in rows] for rows in (shown, asked)]
        return self.once(digest_of(["prompted", merge.digest, *digests]), ask)

    def gradient(self, merge: WeightedMerge, rows: Sequence[Row]) -> Mapping[str, Float32Array]:
        """Return the gradient of the mean loss of rows at a merge, tasks counting the same, by parameter name.

        Args:
            merge: where it is taken.
            rows: the rows.
        """
        from merge_advisor.types import BACKWARD

        self.forwards += BACKWARD * len(rows)
        return self.run_gradient(merge, rows)

    def input_moments(self, merge: WeightedMerge, rows: Sequence[Row]) -> Mapping[str, Float32Array]:
        """Return E[x xᵀ] of what the module of each target is given over the rows' prompts, (in, in) by its name.

        Args:
            merge: what is on the base meanwhile.
            rows: the rows; their answers are not looked at.
        """
        self.forwards += len(rows)
        return self.run_moments(merge, rows)


def untouched() -> PoolError:
    """Return the error of a pool that changes none of the weights that are trained."""
    return PoolError("no adapter of the pool changes the weights that are trained; give another `adaptation`")


def _absent() -> NoReturn:
    raise InputError("this workbench has no model")


def trains_unlabelled(adaptation: Adaptation) -> bool:
    """Return whether an adaptation trains on inputs without outputs; most do not, and say nothing of it.

    Args:
        adaptation: as it is registered.
    """
    return bool(getattr(adaptation, "unlabelled", False))


class Adaptation(Protocol):
    """What the registry's adaptations look like; the package docstring is the contract.

    >>> from merge_advisor import registry
    >>> adaptation: Adaptation = registry.build("adaptation", "continue:pull=0.1")
    >>> adaptation.name, adaptation.needs()
    ('continue', 'merge')
    """

    name: ClassVar[str]
    trains: ClassVar[str]
    cost: ClassVar[str]

    def needs(self) -> Need:
        """Return what has to be there before it begins."""
        ...

    def passes(self, members: int) -> tuple[int, int]:
        """Return how many finetunes it makes in each fold, and how many passes over all rows it measures, at most.

        Args:
            members: of the merge that was chosen.
        """
        ...

    def adapt(self, bench: Workbench) -> Adapted:
        """Return the model made of rows and pool.

        Args:
            bench: rows, pool and merge, and what can be done with them.

        Raises:
            MergeAdvisorError: whatever training and measuring refuse.
        """
        ...
