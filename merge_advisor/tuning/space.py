"""A search space as named numbers: what samplers draw, and the merge that the drawn numbers mean.

| name | range | there where |
|---|---|---|
| `composition` | one of the space's specs | the space holds more than one |
| `density` | `space.density` | the space has that range and the composition a parameter `density` |
| `scale` | `space.scale`, in the logarithm | the space has that range |
| `use0`, `use1`, … | True or False | `space.members` |
| `w0`, `w1`, … | `space.bounds` | the member is in use |
| `layer0`, `layer1`, … | 0 to 2 | `space.layers` |

A member's weight in the merge is `w · scale`, so that with a scale a merge may carry weights beyond the bounds. A merge
does not tell its scale: samplers leave it in the notes of what they ask (`history.ask_for`); a trial without that note
has scale 1. No sampler leaves all members out: the anchor (member 0) is in wherever all others are out. The merge of
weights 0 is read all the same: it is the base's trial.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any

from merge_advisor import registry
from merge_advisor.errors import SpecError
from merge_advisor.tuning.values import Point, Sampler, SearchSpace

LAYER = (0.0, 2.0)
"""Range of a layer group's factor: from off to twice as strong."""

ParameterValue = float | str | bool
Numbers = dict[str, ParameterValue]


@dataclass(frozen=True, slots=True)
class NumberParameter:
    """A parameter that is a number within limits."""

    name: str
    low: float
    high: float
    log: bool = False
    """Whether it is searched in the logarithm."""

    def clip(self, value: float) -> float:
        """Return the nearest number inside."""
        return min(max(float(value), self.low), self.high)

    def unit(self, value: float) -> float:
        """Map [low, high] to [0, 1]; what lies outside goes to the end."""
        value, low, high = self.clip(value), self.low, self.high
        if self.log:
            value, low, high = math.log(value), math.log(low), math.log(high)
        return (value - low) / (high - low)

    def at(self, share: float) -> float:
        """Map [0, 1] to [low, high]; what lies outside goes to the end."""
        if self.log:
            return self.clip(math.exp(math.log(self.low) + share * (math.log(self.high) - math.log(self.low))))
        return self.clip(self.low + share * (self.high - self.low))


@dataclass(frozen=True, slots=True)
class ChoiceParameter:
    """A parameter that is one of a few values."""

    name: str
    values: tuple[str, ...] | tuple[bool, ...]


Parameter = NumberParameter | ChoiceParameter


def check(space: SearchSpace) -> None:
    """Refuse a space that cannot be searched.

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
    with_density = [has_density(spec) for spec in _specs(space)]  # refuses unknown names as well
    if space.density is not None and not any(with_density):
        raise SpecError(f"search space: {', '.join(_specs(space))} has no density to search; leave the density out")
    to_numbers(space, space.start)


def parts(space: SearchSpace) -> tuple[str, ...]:
    """Name what the space holds beside weights and scale: "composition", "members", "density", "layers"."""
    held = {
        "composition": len(_specs(space)) > 1,
        "members": space.members,
        "density": space.density is not None,
        "layers": space.layers > 0,
    }
    return tuple(name for name, there in held.items() if there)


def demand(sampler: Sampler, space: SearchSpace) -> None:
    """Refuse a space that cannot be searched at all, or not by this sampler.

    Raises:
        SpecError: with what to fix, or which sampler to take instead.
    """
    check(space)
    unable = [part for part in parts(space) if part not in sampler.searches]
    if unable:
        fixes = {
            "composition": "give one composition",
            "members": "keep all members",
            "density": "give the density in the composition's spec",
            "layers": "leave out the layer groups",
        }
        what = " and ".join(fixes[part] for part in unable)
        raise SpecError(f"sampler {sampler.name}: cannot search {', '.join(unable)}; {what}, or use --sampler tpe")


@lru_cache(maxsize=8)
def parameters(space: SearchSpace) -> Mapping[str, Parameter]:
    """Return all parameters the space can have, by name; which of them a merge has is for `walk` to say."""
    found: list[Parameter] = []
    if len(_specs(space)) > 1:
        found.append(ChoiceParameter("composition", _specs(space)))
    if space.density is not None:
        found.append(NumberParameter("density", *space.density))
    if space.scale is not None:
        found.append(NumberParameter("scale", *space.scale, log=True))
    for i in range(len(space.start.weights)):
        if space.members:
            found.append(ChoiceParameter(f"use{i}", (False, True)))
        found.append(NumberParameter(f"w{i}", *space.bounds))
    found += [NumberParameter(f"layer{i}", *LAYER) for i in range(space.layers)]
    return MappingProxyType({parameter.name: parameter for parameter in found})


def boxes(space: SearchSpace) -> tuple[NumberParameter, ...]:
    """List the parameters that are numbers: all there are, where the space holds no composition and no members."""
    return tuple(parameter for parameter in parameters(space).values() if isinstance(parameter, NumberParameter))


def walk(space: SearchSpace, suggest: Callable[[Parameter], ParameterValue]) -> Numbers:
    """Draw the numbers of one merge: `suggest` is called for each parameter that the earlier answers leave there."""
    known = parameters(space)
    found: Numbers = {}

    def draw(name: str) -> None:
        if name in known:
            found[name] = suggest(known[name])

    draw("composition")
    if has_density(str(found.get("composition", _specs(space)[0]))):
        draw("density")
    draw("scale")
    k = len(space.start.weights)
    for i in [*range(1, k), 0]:  # the anchor last: it is in wherever no other member is
        if i or any(found.get(f"use{j}", True) for j in range(1, k)):
            draw(f"use{i}")
        elif space.members:
            found["use0"] = True
        if found.get(f"use{i}", True):
            draw(f"w{i}")
    for i in range(space.layers):
        draw(f"layer{i}")
    return found


def to_point(space: SearchSpace, numbers: Mapping[str, ParameterValue]) -> Point:
    """Return the merge that `numbers` mean; names that are missing are as in the start."""
    k = len(space.start.weights)
    scale = float(numbers.get("scale", 1.0))
    weights = tuple(float(numbers[f"w{i}"]) * scale if numbers.get(f"use{i}", True) else 0.0 for i in range(k))
    spec = str(numbers.get("composition", _specs(space)[0]))
    if "density" in numbers:
        spec = with_density(spec, float(numbers["density"]))
    layers = space.start.layers
    if space.layers:
        factors = tuple(float(numbers[f"layer{i}"]) for i in range(space.layers))
        layers = () if all(factor == 1 for factor in factors) else factors
    return Point(weights, spec, layers)


def to_numbers(space: SearchSpace, point: Point, notes: Mapping[str, Any] | None = None) -> Numbers:
    """Return the numbers that mean `point`, also such as lie outside the space; `to_point` of them is `point`.

    The scale is the one in `notes`; without it 1, or the nearest to 1 that brings the weights inside the bounds.

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

    found = walk(space, read)
    if space.members and not any(used):
        found["use0"] = False
        del found["w0"]
    return found


def inside(known: Mapping[str, Parameter], numbers: Mapping[str, ParameterValue]) -> Numbers:
    """Return the numbers, each moved to the nearest value inside the range of its parameter."""
    moved: Numbers = {}
    for name, value in numbers.items():
        parameter = known[name]
        moved[name] = parameter.clip(float(value)) if isinstance(parameter, NumberParameter) else value
    return moved


def clip(space: SearchSpace, point: Point) -> Point:
    """Return the nearest merge inside the space; weights of exactly 0 stay where members may be left out."""
    return to_point(space, inside(parameters(space), to_numbers(space, point)))


def has_density(spec: str) -> bool:
    """Say whether the composition has a parameter `density`.

    Raises:
        SpecError: there is no such composition.
    """
    cls = registry.load("composition", spec.partition(":")[0].strip())
    return any(field.name == "density" for field in dataclasses.fields(cls))


def density_of(spec: str) -> float | None:
    """Return the density a spec stands for, its default included; None where it has none.

    Raises:
        SpecError: the spec names no composition, or a parameter it does not have.
    """
    return float(registry.build("composition", spec).density) if has_density(spec) else None


def with_density(spec: str, density: float) -> str:
    """Return the spec with that density: "ties" and 0.4 give "ties:density=0.4"."""
    bare = without_density(spec)
    return f"{bare}{',' if ':' in bare else ':'}density={float(density)!r}"


def without_density(spec: str) -> str:
    """Return the spec without its density: "ties:density=0.4,sign=count" gives "ties:sign=count"."""
    name, _, tail = spec.partition(":")
    pieces = [piece.strip() for piece in tail.split(",") if piece.strip()]
    kept = [piece for piece in pieces if piece.partition("=")[0].strip() != "density"]
    return ":".join([name.strip(), *([",".join(kept)] if kept else [])])


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
