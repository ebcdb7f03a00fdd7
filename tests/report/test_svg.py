"""The parts of plots: coordinates, text that fits, axes."""

import math

import pytest

from merge_advisor.report.svg import EM, breadth, brief, coordinate, fitted, scale_over
from tests.support.pages import HOSTILE


def test_coordinates_are_finite() -> None:
    assert [coordinate(v) for v in (1.0, -0.04, 2.25, 1e3)] == ["1", "0", "2.2", "1000"]
    for value in (math.nan, math.inf):
        with pytest.raises(ValueError, match="no coordinate"):
            coordinate(value)


@pytest.mark.parametrize(
    "text", ["short", "w" * 10_000, "漢" * 500, "😀" * 300, "i" * 400, "a\u0301" * 200, HOSTILE * 20]
)
def test_text_is_cut_to_the_room_there_is(text: str) -> None:
    for room in (400, 120, 60):
        shown = fitted(text, room)
        assert breadth(shown) * EM <= room and shown.isprintable()
        assert ("…" in shown) == (len(text) > 10) or shown == text


def test_ids_that_begin_alike_lose_their_beginning_where_room_is_scarce() -> None:
    names = ("owner/flan_t5_large-anli_r1", "owner/flan_t5_large-wiki_qa")
    assert list(brief(names, 60).values()) == ["anli_r1", "wiki_qa"]
    assert brief(names, 1000)[names[0]] == names[0] and brief(names[:1], 10) == {names[0]: names[0]}
    assert brief((), 10) == {} and brief(("a-" * 9, "a-" * 9 + "b"), 10)["a-" * 9 + "b"] == "b"


@pytest.mark.parametrize("ends", [(0, 1), (0.2, 1.35), (-3, 12345), (1e-7, 3e-7), (-1e90, 1e95), (5, 5)])
def test_axes_have_round_ticks_that_differ(ends: tuple[float, float]) -> None:
    scale = scale_over(ends, 0, 100)
    assert 3 <= len(scale.ticks) <= 7 and len({scale.tick_text(tick) for tick in scale.ticks}) == len(scale.ticks)
    assert all(scale.low - scale.step * 1e-6 <= tick <= scale.high + scale.step * 1e-6 for tick in scale.ticks)
    assert scale(scale.low) == 0 and scale(scale.high) == 100 and scale(scale.high * 2 + 1) == 100
