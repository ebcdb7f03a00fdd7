"""An Optuna study made of the finished trials for one ask, and dropped after it.

Optuna's samplers keep random numbers and caches from one ask to the next. Here each ask gets a fresh sampler with a
seed of its own and all finished trials, so that what it draws is a function of (seed, history), as resuming needs.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from merge_advisor.tuning.space import FloatParameter, Parameter, ParameterValue, Params, parameters, suggest_params
from merge_advisor.tuning.values import SearchSpace


def to_distributions(known: Mapping[str, Parameter]) -> dict[str, Any]:
    """Return parameters as Optuna distributions, by name.

    Args:
        known: the parameters: see `space.parameters`.
    """
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    ranges: dict[str, Any] = {}
    for name, parameter in known.items():
        if isinstance(parameter, FloatParameter):
            ranges[name] = FloatDistribution(parameter.low, parameter.high, log=parameter.log)
        else:
            ranges[name] = CategoricalDistribution(parameter.values)
    return ranges


def narrowed_parameters(
    space: SearchSpace, params: Sequence[Params], losses: NDArray[np.float64]
) -> dict[str, Parameter]:
    """Return the parameters, their ranges narrowed to the best quarter of the trials and half its extent beyond.

    Optuna's samplers step in units of the ranges, which in tens of weights leads far from every good merge. Where the
    best lie at an end of the narrowed range, it grows again.

    Args:
        space: what is searched.
        params: of the finished trials.
        losses: (n,) float64, finite.
    """
    best = [params[i] for i in np.argsort(losses, kind="stable")[: max(4, len(params) // 4)]]
    narrowed: dict[str, Parameter] = {}
    for name, parameter in parameters(space).items():
        narrowed[name] = parameter
        shares = [
            parameter.to_unit(float(trial[name]))
            for trial in best
            if isinstance(parameter, FloatParameter) and name in trial
        ]
        if isinstance(parameter, FloatParameter) and len(shares) > 1:
            # never narrower than 2% of the range: one without width could not grow again
            margin = max(max(shares) - min(shares), 0.02) / 2
            low, high = parameter.from_unit(min(shares) - margin), parameter.from_unit(max(shares) + margin)
            narrowed[name] = FloatParameter(name, low, high, parameter.log)
    return narrowed


def suggest_with(
    space: SearchSpace,
    known: Mapping[str, Parameter],
    params: Sequence[Params],
    losses: NDArray[np.float64],
    sampler: Any,
) -> Params:
    """Return the parameters of the next merge, drawn by a fresh Optuna sampler.

    Args:
        space: what is searched.
        known: its parameters, with the ranges to draw from.
        params: of the finished trials.
        losses: (n, m) float64, finite.
        sampler: an `optuna.samplers.BaseSampler`, seeded.
    """
    import optuna
    from optuna.storages import InMemoryStorage

    finished = _frozen(known, params, losses)

    class Finished(InMemoryStorage):  # type: ignore[misc]
        """Returns the trials as they are; adding them one by one copies each deeply, four fifths of an ask's time."""

        def get_all_trials(self, study_id: int, deepcopy: bool = True, states: Any = None) -> list[Any]:
            asked: list[Any] = super().get_all_trials(study_id, deepcopy, states)
            return [trial for trial in finished if states is None or trial.state in states] + asked

    with _quiet():
        directions = ["minimize"] * losses.shape[1]
        study = optuna.create_study(storage=Finished(), sampler=sampler, study_name="ask", directions=directions)
        trial = study.ask()

        def draw(parameter: Parameter) -> ParameterValue:
            narrowed = known[parameter.name]
            if isinstance(narrowed, FloatParameter):
                return float(trial.suggest_float(narrowed.name, narrowed.low, narrowed.high, log=narrowed.log))
            chosen: str | bool = trial.suggest_categorical(narrowed.name, narrowed.values)
            return chosen

        return suggest_params(space, draw)


def _frozen(known: Mapping[str, Parameter], params: Sequence[Params], losses: NDArray[np.float64]) -> list[Any]:
    """The trials as Optuna's, numbered from 1: number 0 is the one that is asked for.

    Those that racing stopped are COMPLETE as well, with the value estimated from the rows they saw: a sampler that does
    not know them would ask for the same bad places again.
    """
    from optuna.trial import FrozenTrial, TrialState

    there = to_distributions(known)
    return [
        FrozenTrial(
            number=i + 1, trial_id=i + 1, state=TrialState.COMPLETE, value=None, values=values, params=dict(own),
            distributions={name: there[name] for name in own}, user_attrs={}, system_attrs={},
            intermediate_values={}, datetime_start=None, datetime_complete=None,
        )
        for i, (own, values) in enumerate(zip(params, losses.tolist(), strict=True))
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
