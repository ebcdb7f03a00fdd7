"""What everybody tries first: the rows as examples in the prompt of the base."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from merge_advisor.adapt.folds import FOLDS, folds_of, in_order
from merge_advisor.adapt.values import NOTHING, Adapted, Need
from merge_advisor.adapt.workbench import Workbench
from merge_advisor.errors import TaskError


@dataclass(frozen=True)
class Prompting:
    """Train nothing: put the rows into the prompt of the base as examples, as many as fit.

    >>> Prompting().needs()
    'nothing'
    """

    folds: int = FOLDS
    """Parts of the rows; each is judged with the others in the prompt."""

    name: ClassVar[str] = "prompt"
    trains: ClassVar[str] = "nothing"
    cost: ClassVar[str] = "a pass over the rows, and one over the examples, for each fold; every answer a longer prompt"

    def __post_init__(self) -> None:
        if self.folds < 2:
            raise ValueError(f"folds={self.folds}: rows are judged with others in the prompt, so at least 2")

    def needs(self) -> Need:
        """Return that it needs no pool and no merge."""
        return "nothing"

    def passes(self, members: int) -> tuple[int, int]:
        """See `Adaptation.passes`."""
        return 0, self.folds

    def check_tasks(self, count: int) -> None:
        """Refuse several tasks: one prompt cannot show the examples of each.

        Args:
            count: how many tasks there are.

        Raises:
            TaskError: more than one.
        """
        if count > 1:
            raise TaskError(
                f"prompt: one prompt cannot show the examples of {count} tasks; plan for one, or give another "
                "`adaptation`"
            )

    def adapt(self, bench: Workbench) -> Adapted:
        """See `Adaptation.adapt`.

        Raises:
            TaskError: several tasks.
        """
        self.check_tasks(len(bench.tasks))
        folds = folds_of(bench.tasks, self.folds)
        losses = in_order(bench, folds, [bench.prompted(fold.rows, fold.out) for fold in folds])
        return Adapted(NOTHING, tuple(losses.tolist()), reason=f"{_model(bench)}; nothing is trained", prompted=True)


def _model(bench: Workbench) -> str:
    """What the model is, with how many of how many examples its prompt has room for."""
    given, fitting = len(bench.learning), None if bench.run_fitting is None else bench.run_fitting()
    if fitting is None:
        return f"the base with as many of {given} examples in its prompt as fit whole"
    if not fitting:
        return f"the base with examples in its prompt, though none of {given} fits beside the longest held-out row"
    whole = "" if fitting == given else ", as many as fit whole"
    return f"the base with {fitting} of {given} examples in its prompt{whole}"
