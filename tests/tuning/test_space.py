"""Search spaces as named numbers."""

import dataclasses
import math
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from merge_advisor.errors import SpecError
from merge_advisor.tuning import Point, SearchSpace
from merge_advisor.tuning.density import density_of, has_density, with_density
from merge_advisor.tuning.space import (
    FloatParameter,
    Parameter,
    ParameterValue,
    Params,
    check_space,
    clip_params,
    clip_point,
    float_parameters,
    parameters,
    searched_parts,
    suggest_params,
    to_params,
    to_point,
)
from tests.support.tune_world import SPACES, space_of

THIN = """
from dataclasses import dataclass

@dataclass(frozen=True)
class Thin:
    "Keep a share of the entries."
    density: float = 0.25
    sign: str = "sum"
"""


@pytest.fixture
def thin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Another package's composition with a density, registered as other packages do it."""
    (tmp_path / "thin_composition.py").write_text(THIN)
    info = tmp_path / "thin_composition-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: thin-composition\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[merge_advisor.composition]\nthin = thin_composition:Thin\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield "thin"
    sys.modules.pop("thin_composition", None)


@st.composite
def drawn(draw: st.DrawFn, name: str) -> Params:
    """Numbers any sampler could draw in a space."""

    def suggest(parameter: Parameter) -> ParameterValue:
        if isinstance(parameter, FloatParameter):
            return draw(st.floats(parameter.low, parameter.high).filter(lambda x: x == 0 or abs(x) > 1e-6))
        values: tuple[str | bool, ...] = parameter.values
        return draw(st.sampled_from(values))

    return suggest_params(SPACES[name], suggest)


@pytest.mark.parametrize("name", SPACES)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_numbers_and_merge_are_one_thing(name: str, data: st.DataObject) -> None:
    space = SPACES[name]
    numbers = data.draw(drawn(name))
    point = to_point(space, numbers)
    back = to_params(space, point, {"scale": numbers.get("scale", 1.0)})
    if all(numbers.get(f"w{i}") != 0 for i in range(3)) or not space.members:
        assert back.keys() == numbers.keys()
        for key, value in numbers.items():
            assert back[key] == (value if isinstance(value, str) else pytest.approx(value, rel=1e-12))
    again = to_point(space, back)
    assert again.weights == pytest.approx(point.weights, rel=1e-12)
    assert dataclasses.replace(again, weights=()) == dataclasses.replace(point, weights=())
    if space.scale is None:
        assert again == point
    assert clip_params(parameters(space), numbers) == numbers


@settings(max_examples=60, deadline=None)
@given(
    weights=st.lists(st.floats(-9, 9).filter(lambda w: w == 0 or abs(w) > 1e-6), min_size=3, max_size=3),
    name=st.sampled_from(["weights", "scale", "positive", "composition", "members"]),
)
def test_a_merge_outside_is_read_and_clipped_to_the_nearest_inside(weights: list[float], name: str) -> None:
    space = SPACES[name]
    point = Point(tuple(weights), "exact")
    assert to_point(space, to_params(space, point)).weights == pytest.approx(point.weights, rel=1e-12)
    clipped = clip_point(space, point)
    assert clip_point(space, clipped).weights == pytest.approx(clipped.weights, rel=1e-12)
    most = space.scale[1] if space.scale else 1
    low, high = space.bounds[0] * most, space.bounds[1] * most
    for before, after in zip(weights, clipped.weights, strict=True):
        assert low - 1e-9 <= after <= high + 1e-9 or (after == 0 and space.members)
        if space.scale is None and low <= before <= high:
            assert after == before


def test_weights_of_nought_are_the_base_where_members_may_be_left_out() -> None:
    space = SPACES["members"]
    base = Point((0.0, 0.0, 0.0), "exact")
    assert to_params(space, base) == {"use0": False, "use1": False, "use2": False}
    assert to_point(space, to_params(space, base)) == base
    assert clip_point(space, base) == base


def test_no_draw_leaves_all_members_out() -> None:
    found = suggest_params(SPACES["members"], lambda p: p.low if isinstance(p, FloatParameter) else False)
    assert found == {"use1": False, "use2": False, "use0": True, "w0": -1.5}


def test_layers_of_one_are_none() -> None:
    space = SPACES["layers"]
    assert to_params(space, space.start)["layer2"] == 1
    assert to_point(space, to_params(space, space.start)) == space.start
    given_ = Point(space.start.weights, "exact", (1.0, 0.5, 2.0))
    assert to_point(space, to_params(space, given_)) == given_
    kept = SearchSpace(Point((0.2,), "exact", (0.5, 0.7)))
    assert to_point(kept, {"w0": 1.0}).layers == (0.5, 0.7)


def test_shares_of_a_range() -> None:
    plain, log = FloatParameter("w0", -1.0, 3.0), FloatParameter("scale", 0.25, 4.0, log=True)
    assert plain.to_unit(1.0) == 0.5 and plain.from_unit(0.25) == 0.0
    assert math.isclose(log.from_unit(0.5), 1.0) and math.isclose(log.to_unit(2.0), 0.75)
    assert plain.from_unit(7.0) == 3.0 and plain.to_unit(-9.0) == 0.0 and log.from_unit(-1.0) == 0.25


def test_the_density_is_read_from_a_spec_and_written_into_it(thin: str) -> None:
    assert density_of("thin") == 0.25 and density_of("thin:density=0.7") == 0.7 and density_of("exact") is None
    assert has_density(thin) and not has_density("lorahub")
    assert with_density("thin", 0.4) == "thin:density=0.4"
    assert with_density("thin:density=0.7,sign=count", 1 / 3) == f"thin:sign=count,density={1 / 3!r}"
    space = SearchSpace(Point((0.5, 0.5), "thin:density=0.7"), density=(0.1, 0.9))
    check_space(space)
    assert searched_parts(space) == ("density",) and [box.name for box in float_parameters(space)] == [
        "density",
        "w0",
        "w1",
    ]
    assert to_params(space, space.start) == {"density": 0.7, "w0": 0.5, "w1": 0.5}
    assert to_point(space, to_params(space, space.start)) == space.start
    assert clip_point(space, Point((0.5, 0.5), "thin:density=0.95")).composition == "thin:density=0.9"


def test_the_density_is_there_only_with_a_composition_that_has_one(thin: str) -> None:
    space = SearchSpace(Point((0.5,), "exact"), compositions=("exact", "thin:sign=count"), density=(0.1, 0.9))
    check_space(space)
    assert to_params(space, space.start) == {"composition": "exact", "w0": 0.5}
    assert to_params(space, Point((0.5,), "thin:density=0.2,sign=count")) == {
        "composition": "thin:sign=count",
        "density": 0.2,
        "w0": 0.5,
    }
    point = to_point(space, {"composition": "thin:sign=count", "density": 0.3, "w0": 1.0})
    assert point == Point((1.0,), "thin:sign=count,density=0.3")
    twice = dataclasses.replace(space, compositions=("exact", "thin:density=0.1", "thin:density=0.2"))
    with pytest.raises(SpecError, match="the same"):
        check_space(twice)
    check_space(dataclasses.replace(twice, density=None))


@pytest.mark.parametrize(
    ("space", "word"),
    [
        (SearchSpace(Point((), "exact")), "no member"),
        (space_of(2, bounds=(1.0, 1.0)), "bounds 1 to 1"),
        (space_of(2, bounds=(-math.inf, 1.0)), "low < high"),
        (space_of(2, bounds=(math.nan, 1.0)), "low < high"),
        (space_of(2, scale=(0.0, 1.0)), "scale 0 to 1"),
        (space_of(2, density=(0.1, 1.5)), "density 0.1 to 1.5"),
        (space_of(2, density=(0.1, 0.5)), "no density to search"),
        (space_of(2, layers=-1), "layer groups"),
        (space_of(2, compositions=("lorahub",)), "composition exact is none of lorahub"),
        (space_of(2, compositions=("exact", "exact")), "the same"),
        (space_of(2, compositions=("exact", "exakt")), "unknown"),
        (SearchSpace(Point((0.1,), "exact", (1.0, 2.0)), layers=3), "2 layer groups"),
    ],
)
def test_what_cannot_be_searched_is_one_clear_line(space: SearchSpace, word: str) -> None:
    with pytest.raises(SpecError, match=word) as caught:
        check_space(space)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", SPACES)
def test_the_spaces_of_these_tests_are_spaces(name: str) -> None:
    check_space(SPACES[name])


def test_a_trial_of_another_plan_is_refused() -> None:
    with pytest.raises(SpecError, match="4 members, but it has 3"):
        to_params(SPACES["weights"], Point((0.1,) * 4, "exact"))
    with pytest.raises(SpecError, match="lorahub is none of exact"):
        to_params(SPACES["weights"], Point((0.1,) * 3, "lorahub"))
