"""An Optuna study made of the finished trials for one ask, and dropped after it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from merge_advisor.tuning.space import NumberParameter, Numbers, Parameter, ParameterValue, parameters, walk
from merge_advisor.tuning.values import SearchSpace


def distributions(known: Mapping[str, Parameter]) -> dict[str, Any]:
    """Return parameters (`space.parameters` of a space) as Optuna distributions, by name."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    found: dict[str, Any] = {}
    for name, parameter in known.items():
        if isinstance(parameter, NumberParameter):
            found[name] = FloatDistribution(parameter.low, parameter.high, log=parameter.log)
        else:
            found[name] = CategoricalDistribution(parameter.values)
    return found


def focus(space: SearchSpace, numbers: Sequence[Numbers], losses: NDArray[np.float64]) -> dict[str, Parameter]:
    """Narrow the ranges to where the best quarter of the trials lies, and half its extent further on both sides.

    Optuna's samplers step in units of the ranges, which in tens of weights leads far from every good merge. Where the
    best lie at an end, the range grows again.

    Args:
        space: what is searched.
        numbers: of the finished trials.
        losses: (n,) float64, finite.
    """
    best = [numbers[i] for i in np.argsort(losses, kind="stable")[: max(4, len(numbers) // 4)]]
    found: dict[str, Parameter] = {}
    for name, parameter in parameters(space).items():
        found[name] = parameter
        shares = [
            parameter.unit(float(trial[name]))
            for trial in best
            if isinstance(parameter, NumberParameter) and name in trial
        ]
        if isinstance(parameter, NumberParameter) and len(shares) > 1:
            margin = max(max(shares) - min(shares), 0.02) / 2
            low, high = parameter.at(min(shares) - margin), parameter.at(max(shares) + margin)
            found[name] = NumberParameter(name, low, high, parameter.log)
    return found


def suggest(
    space: SearchSpace,
    known: Mapping[str, Parameter],
    numbers: Sequence[Numbers],
    losses: NDArray[np.float64],
    sampler: Any,
) -> Numbers:
    """Let a fresh Optuna sampler, which knows nothing but the finished trials, draw the numbers of the next merge.

    Args:
        space: what is searched.
        known: its parameters, with the ranges to draw from.
        numbers: of the finished trials.
        losses: (n, m) float64, finite.
        sampler: an `optuna.samplers.BaseSampler`, seeded.
    """
    import optuna
    from optuna.storages import InMemoryStorage

    finished = _frozen(known, numbers, losses)

    class Finished(InMemoryStorage):  # type: ignore[misc]
        """Hands the trials out as they are; adding them one by one copies each deeply, four fifths of an ask's time."""

        def get_all_trials(self, study_id: int, deepcopy: bool = True, states: Any = None) -> list[Any]:
            asked: list[Any] = super().get_all_trials(study_id, deepcopy, states)
            return [trial for trial in finished if states is None or trial.state in states] + asked

    with _quiet():
        directions = ["minimize"] * losses.shape[1]
        study = optuna.create_study(storage=Finished(), sampler=sampler, study_name="ask", directions=directions)
        trial = study.ask()

        def draw(parameter: Parameter) -> ParameterValue:
            narrowed = known[parameter.name]
            if isinstance(narrowed, NumberParameter):
                return float(trial.suggest_float(narrowed.name, narrowed.low, narrowed.high, log=narrowed.log))
            chosen: str | bool = trial.suggest_categorical(narrowed.name, narrowed.values)
            return chosen

        return walk(space, draw)


def _frozen(known: Mapping[str, Parameter], numbers: Sequence[Numbers], losses: NDArray[np.float64]) -> list[Any]:
    """The trials as Optuna's, numbered from 1: number 0 is the one that is asked for."""
    from optuna.trial import FrozenTrial, TrialState

    there = distributions(known)
    return [
        FrozenTrial(
            number=i + 1, trial_id=i + 1, state=TrialState.COMPLETE, value=None, values=values, params=dict(params),
            distributions={name: there[name] for name in params}, user_attrs={}, system_attrs={},
            intermediate_values={}, datetime_start=None, datetime_complete=None,
        )
        for i, (params, values) in enumerate(zip(numbers, losses.tolist(), strict=True))
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
