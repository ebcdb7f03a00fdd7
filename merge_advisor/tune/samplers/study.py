"""An Optuna study made of the finished trials for one ask, and dropped after it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from merge_advisor.tune import SearchSpace, Trial
from merge_advisor.tune.samplers.history import numbers_of
from merge_advisor.tune.space import Box, Numbers, Parameter, Value, parameters, walk


def distributions(space: SearchSpace) -> dict[str, Any]:
    """Return the space's parameters as Optuna distributions, by name."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    found: dict[str, Any] = {}
    for name, parameter in parameters(space).items():
        if isinstance(parameter, Box):
            found[name] = FloatDistribution(parameter.low, parameter.high, log=parameter.log)
        else:
            found[name] = CategoricalDistribution(parameter.values)
    return found


def suggest(space: SearchSpace, history: Sequence[Trial], losses: NDArray[np.float64], sampler: Any) -> Numbers:
    """Let a fresh Optuna sampler, which knows nothing but `history`, draw the numbers of the next merge.

    Args:
        space: what is searched.
        history: the finished trials.
        losses: (n, m) float64, finite, as the sampler is to see them.
        sampler: an `optuna.samplers.BaseSampler`, seeded.
    """
    import optuna

    from optuna.storages import InMemoryStorage

    finished = _frozen(space, history, losses)

    class Finished(InMemoryStorage):
        """Hands the trials out as they are; adding them one by one copies each deeply, four fifths of an ask's time."""

        def get_all_trials(self, study_id: int, deepcopy: bool = True, states: Any = None) -> list[Any]:
            asked: list[Any] = super().get_all_trials(study_id, deepcopy, states)
            return [trial for trial in finished if states is None or trial.state in states] + asked

    with _quiet():
        directions = ["minimize"] * losses.shape[1]
        study = optuna.create_study(storage=Finished(), sampler=sampler, study_name="ask", directions=directions)
        trial = study.ask()

        def draw(parameter: Parameter) -> Value:
            if isinstance(parameter, Box):
                return float(trial.suggest_float(parameter.name, parameter.low, parameter.high, log=parameter.log))
            chosen: str | bool = trial.suggest_categorical(parameter.name, parameter.values)
            return chosen

        return walk(space, draw)


def _frozen(space: SearchSpace, history: Sequence[Trial], losses: NDArray[np.float64]) -> list[Any]:
    """The trials as Optuna's, numbered from 1: number 0 is the one that is asked for."""
    from optuna.trial import FrozenTrial, TrialState

    known = distributions(space)
    return [
        FrozenTrial(
            number=i + 1, trial_id=i + 1, state=TrialState.COMPLETE, value=None, values=values, params=numbers,
            distributions={name: known[name] for name in numbers}, user_attrs={}, system_attrs={},
            intermediate_values={}, datetime_start=None, datetime_complete=None,
        )
        for i, (numbers, values) in enumerate(zip(numbers_of(space, history), losses.tolist(), strict=True))
    ]  # fmt: skip


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Optuna's log and warnings (experimental samplers, choices sampled one by one) from the user's screen."""
    import optuna

    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        optuna.logging.set_verbosity(level)
