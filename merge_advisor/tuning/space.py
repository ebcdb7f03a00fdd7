"""A search space as named parameters: what samplers draw, and the merge that the drawn values mean.

| name | range | present where |
|---|---|---|
| `composition` | one of the space's specs | the space holds more than one |
| `density` | `space.density` | the space has that range and the composition a parameter `density` |
| `scale` | `space.scale`, in the logarithm | the space has that range |
| `use0`, `use1`, … | True or False | `space.members` |
| `w0`, `w1`, … | `space.bounds` | the member is in use |
| `layer0`, `layer1`, … | 0 to 2 | `space.layers` |

A member's weight in the merge is `w · scale`, so that with a scale a merge may carry weights beyond the bounds. A merge
does not show its scale: samplers leave it in the notes of what they ask (`history.ask_for`); a trial without that note
has scale 1. No sampler leaves all members out: the anchor (member 0) is in wherever all others are out. The merge of
weights 0 can be read all the same: it is the base's trial.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any

from merge_advisor.errors import SpecError
from merge_advisor.tuning.density import density_of, has_density, with_density, without_density
from merge_advisor.tuning.values import Point, Sampler, SearchSpace

_LAYER_RANGE = (0.0, 2.0)
"""Range of a layer group's factor: from off to twice as strong."""

ParameterValue = float | str | bool
Params = dict[str, ParameterValue]
"""Value of each parameter that a merge has, by name, as `optuna.Trial.params`."""


@dataclass(frozen=True, slots=True)
class FloatParameter:
    """A parameter that is a number within limits, as `optuna.distributions.FloatDistribution`.

    >>> weight = FloatParameter("w0", -1.5, 1.5)
    >>> weight.to_unit(0.0), weight.from_unit(1.0)
    (0.5, 1.5)
    """

    name: str
    low: float
    high: float
    log: bool = False
    """Whether it is searched in the logarithm."""

    def clip(self, value: float) -> float:
        """Return the nearest number inside."""
        return min(max(float(value), self.low), self.high)

    def to_unit(self, value: float) -> float:
        """Return where in the range a value lies, 0 to 1; values outside count as the nearest end."""
        value, low, high = self.clip(value), self.low, self.high
        if self.log:
            value, low, high = math.log(value), math.log(low), math.log(high)
        return (value - low) / (high - low)

    def from_unit(self, share: float) -> float:
        """Return the value at a share of the range; shares outside 0 to 1 give the nearest end."""
        if self.log:
            return self.clip(math.exp(math.log(self.low) + share * (math.log(self.high) - math.log(self.low))))
        return self.clip(self.low + share * (self.high - self.low))


@dataclass(frozen=True, slots=True)
class CategoricalParameter:
    """A parameter that is one of a few values, as `optuna.distributions.CategoricalDistribution`.

    >>> CategoricalParameter("use1", (False, True)).values
    (False, True)
    """

    name: str
    values: tuple[str, ...] | tuple[bool, ...]


Parameter = FloatParameter | CategoricalParameter


def check_space(space: SearchSpace) -> None:
    """Refuse a space that cannot be searched.

    >>> check_space(SearchSpace(Point((0.5, 0.5), "exact"), bounds=(1.0, 1.0)))
    Traceback (most recent call last):
    merge_advisor.errors.SpecError: search space: bounds 1 to 1 is no range; give low < high

    Args:
        space: what is to be searched.

    Raises:
        SpecError: an empty or reversed range, no member, an unknown composition, a density without a composition that
            has one, or compositions that do not hold the start's.
    """
    if not space.start.weights:
        raise SpecError("search space: there is no member to weigh; plan with at least one")
    ranges = {"bounds": (space.bounds, -math.inf, math.inf), "scale": (space.scale, 0, math.inf)}
    ranges["density"] = (space.density, 0, 1)
    for name, (limits, least, most) in ranges.items():
        if limits is None:
            continue
        low, high = limits
        positive = low > least or name == "bounds"
        if not (math.isfinite(low) and math.isfinite(high) and positive and low < high <= most):
            wanted = {"bounds": "low < high", "scale": "0 < low < high", "density": "0 < low < high <= 1"}[name]
            raise SpecError(f"search space: {name} {low:g} to {high:g} is no range; give {wanted}")
    if space.layers < 0:
        raise SpecError(f"search space: {space.layers} layer groups; give 0 or more")
    if len({_bare(space, spec) for spec in _specs(space)}) < len(_specs(space)):
        raise SpecError(f"search space: two of {', '.join(_specs(space))} are the same; leave one out")
    dense = [has_density(spec) for spec in _specs(space)]  # refuses unknown names as well
    if space.density is not None and not any(dense):
        raise SpecError(f"search space: {', '.join(_specs(space))} has no density to search; leave the density out")
    to_params(space, space.start)  # refuses a start that is not in the space


def searched_parts(space: SearchSpace) -> tuple[str, ...]:
    """Return what is searched beside weights and scale, of "composition", "members", "density" and "layers".

    >>> searched_parts(SearchSpace(Point((0.5, 0.5), "exact"), members=True))
    ('members',)

    Args:
        space: what may be varied.
    """
    held = {
        "composition": len(_specs(space)) > 1,
        "members": space.members,
        "density": space.density is not None,
        "layers": space.layers > 0,
    }
    return tuple(name for name, there in held.items() if there)


def check_searchable(sampler: Sampler, space: SearchSpace) -> None:
    """Refuse a space that cannot be searched at all, or not by this sampler.

    Args:
        sampler: says which parts it searches.
        space: what is to be searched.

    Raises:
        SpecError: with what to fix, or which sampler to take instead.
    """
    check_space(space)
    unable = [part for part in searched_parts(space) if part not in sampler.searches]
    if unable:
        fixes = {
            "composition": "give one composition",
            "members": "keep all members",
            "density": "give the density in the composition's spec",
            "layers": "leave out the layer groups",
        }
        what = " and ".join(fixes[part] for part in unable)
        raise SpecError(f"sampler {sampler.name}: cannot search {', '.join(unable)}; {what}, or use `sampler=tpe`")


# a sampler asks for them several times per trial, of few spaces: the cache is for these repeats
@lru_cache(maxsize=8)
def parameters(space: SearchSpace) -> Mapping[str, Parameter]:
    """Return all parameters the space can have, by name; `suggest_params` decides which of them a merge has.

    >>> list(parameters(SearchSpace(Point((0.5, 0.5), "exact"), members=True)))
    ['use0', 'w0', 'use1', 'w1']

    Args:
        space: what may be varied.
    """
    listed: list[Parameter] = []
    if len(_specs(space)) > 1:
        listed.append(CategoricalParameter("composition", _specs(space)))
    if space.density is not None:
        listed.append(FloatParameter("density", *space.density))
    if space.scale is not None:
        listed.append(FloatParameter("scale", *space.scale, log=True))
    for i in range(len(space.start.weights)):
        if space.members:
            listed.append(CategoricalParameter(f"use{i}", (False, True)))
        listed.append(FloatParameter(f"w{i}", *space.bounds))
    listed += [FloatParameter(f"layer{i}", *_LAYER_RANGE) for i in range(space.layers)]
    return MappingProxyType({parameter.name: parameter for parameter in listed})


def float_parameters(space: SearchSpace) -> tuple[FloatParameter, ...]:
    """Return the parameters that are numbers: all there are, where the space holds no composition and no members.

    Args:
        space: what may be varied.
    """
    return tuple(parameter for parameter in parameters(space).values() if isinstance(parameter, FloatParameter))


def suggest_params(space: SearchSpace, suggest: Callable[[Parameter], ParameterValue]) -> Params:
    """Return the parameters of one merge; which there are depends on the values drawn before.

    >>> space = SearchSpace(Point((0.5, 0.5), "exact"), members=True)
    >>> suggest_params(space, lambda parameter: 0.7 if isinstance(parameter, FloatParameter) else False)
    {'use1': False, 'use0': True, 'w0': 0.7}

    Args:
        space: what may be varied.
        suggest: called for each parameter that the earlier values leave there; returns its value.
    """
    known = parameters(space)
    params: Params = {}

    def draw(name: str) -> None:
        if name in known:
            params[name] = suggest(known[name])

    draw("composition")
    if has_density(str(params.get("composition", _specs(space)[0]))):
        draw("density")
    draw("scale")
    k = len(space.start.weights)
    for i in [*range(1, k), 0]:  # the anchor last: it is in wherever no other member is
        if i or any(params.get(f"use{j}", True) for j in range(1, k)):
            draw(f"use{i}")
        elif space.members:
            params["use0"] = True
        if params.get(f"use{i}", True):
            draw(f"w{i}")
    for i in range(space.layers):
        draw(f"layer{i}")
    return params


def to_point(space: SearchSpace, params: Mapping[str, ParameterValue]) -> Point:
    """Return the merge that parameters mean; those that are missing are as in the start.

    >>> space = SearchSpace(Point((0.5, 0.5), "exact"), scale=(0.5, 2.0))
    >>> to_point(space, {"scale": 2.0, "w0": 0.25, "w1": 0.5}).weights
    (0.5, 1.0)

    Args:
        space: what may be varied.
        params: drawn in it.
    """
    k = len(space.start.weights)
    scale = float(params.get("scale", 1.0))
    weights = tuple(float(params[f"w{i}"]) * scale if params.get(f"use{i}", True) else 0.0 for i in range(k))
    spec = str(params.get("composition", _specs(space)[0]))
    if "density" in params:
        spec = with_density(spec, float(params["density"]))
    layers = space.start.layers
    if space.layers:
        factors = tuple(float(params[f"layer{i}"]) for i in range(space.layers))
        # one merge has one point: a search must recognise it where it comes again
        layers = () if all(factor == 1 for factor in factors) else factors
    return Point(weights, spec, layers)


def to_params(space: SearchSpace, point: Point, notes: Mapping[str, Any] | None = None) -> Params:
    """Return the parameters that mean a merge, also of one outside the space; `to_point` of them is the merge.

    >>> to_params(SearchSpace(Point((0.5, 0.5), "exact")), Point((1.0, -0.2), "exact"))
    {'w1': -0.2, 'w0': 1.0}

    Args:
        space: what may be varied.
        point: the merge.
        notes: of its trial, with its scale; without, that is 1, or the nearest to 1 that brings the weights inside the
            bounds.

    Raises:
        SpecError: another number of members or layer groups, or a composition the space does not hold.
    """
    k = len(space.start.weights)
    if len(point.weights) != k:
        raise SpecError(f"search space: a merge of {len(point.weights)} members, but it has {k}; tune the plan anew")
    if point.layers and len(point.layers) != (space.layers or len(space.start.layers)):
        raise SpecError(f"search space: a merge of {len(point.layers)} layer groups, but it has {space.layers}")
    specs = _specs(space)
    spec = next((spec for spec in specs if _bare(space, spec) == _bare(space, point.composition)), None)
    if spec is None:
        raise SpecError(f"search space: composition {point.composition} is none of {', '.join(specs)}; add it to them")
    scale = _scale(space, point, notes or {})
    used = [weight != 0 for weight in point.weights]

    def read(parameter: Parameter) -> ParameterValue:
        name = parameter.name
        if name == "composition":
            return spec
        if name == "density":
            return float(density_of(point.composition) or 0)
        if name == "scale":
            return scale
        if name.startswith("layer"):
            return point.layers[int(name[5:])] if point.layers else 1.0
        return used[int(name[3:])] if name.startswith("use") else point.weights[int(name[1:])] / scale

    params = suggest_params(space, read)
    if space.members and not any(used):
        # the base, which no sampler asks for: `suggest_params` has put the anchor in
        params["use0"] = False
        del params["w0"]
    return params


def clip_params(known: Mapping[str, Parameter], params: Mapping[str, ParameterValue]) -> Params:
    """Return values moved to the nearest ones inside the ranges of their parameters.

    >>> clip_params({"w0": FloatParameter("w0", -1.5, 1.5)}, {"w0": 2.0})
    {'w0': 1.5}

    Args:
        known: the parameters by name.
        params: their values.
    """
    moved: Params = {}
    for name, value in params.items():
        parameter = known[name]
        moved[name] = parameter.clip(float(value)) if isinstance(parameter, FloatParameter) else value
    return moved


def clip_point(space: SearchSpace, point: Point) -> Point:
    """Return the nearest merge inside the space; weights of exactly 0 stay where members may be left out.

    >>> clip_point(SearchSpace(Point((0.5, 0.5), "exact")), Point((2.0, 0.1), "exact")).weights
    (1.5, 0.1)

    Args:
        space: what may be varied.
        point: the merge.

    Raises:
        SpecError: see `to_params`.
    """
    return to_point(space, clip_params(parameters(space), to_params(space, point)))


def _bare(space: SearchSpace, spec: str) -> str:
    """What tells the compositions of the space apart: the spec, without its density where that is searched."""
    return spec if space.density is None else without_density(spec)


def _specs(space: SearchSpace) -> tuple[str, ...]:
    return space.compositions or (space.start.composition,)


def _scale(space: SearchSpace, point: Point, notes: Mapping[str, Any]) -> float:
    if space.scale is None:
        return 1.0
    low, high = space.scale
    noted = notes.get("scale")
    if isinstance(noted, (int, float)) and low <= noted <= high:
        return float(noted)
    least, most = space.bounds
    beyond = [w / most for w in point.weights if w > most > 0] + [w / least for w in point.weights if w < least < 0]
    return min(high, max(low, 1.0, *beyond)) if high >= 1 else high
