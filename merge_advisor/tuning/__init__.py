"""Tuning: searching the merges of chosen members for the one with the least loss. Nothing here knows a model.

The search is a function of (seed, finished trials): a sampler is asked with the whole history and keeps nothing between
two asks, so that a search killed at any moment and started again ends in the recipe of an undisturbed one. The words
are Optuna's: a study of trials, a sampler that is asked, trials that are pruned.

`settings`: what a search is asked for. `coordinator`: the loop. `trial_runner` and `racing`: one trial. `goals`: what
it is worth. `space`: the parameters that samplers draw. `samplers`: one file each. `study` and `lock`: what is kept.
`winner`: what a search ends in.

A sampler is a frozen dataclass (its fields are its parameters, see `registry`) with class attributes and a method:

    name: ClassVar[str]              the registered name
    searches: ClassVar[frozenset]    the parts of a space it can search beside weights and scale, of
                                     "composition", "members", "density", "layers"
    cost: ClassVar[str]              what a trial costs, in words
    def ask(self, space: SearchSpace, history: Sequence[Trial], seed: int) -> Ask

Less is better in all values.
"""

from merge_advisor.tuning.values import Ask, Goal, Point, Problem, Sampler, SearchSpace, Trial

__all__ = ["Ask", "Goal", "Point", "Problem", "Sampler", "SearchSpace", "Trial"]
