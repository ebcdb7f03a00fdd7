"""Stated chances against what came, on results made up so that the answer is known."""

import numpy as np
import pytest

from merge_advisor.benchmark.analysis.calibration import calibration, calibrations
from merge_advisor.benchmark.analysis.findings import make_findings
from merge_advisor.benchmark.report.document import bench_document
from merge_advisor.benchmark.values import Arm, Question, Result, Setup, Tasks, Unit
from merge_advisor.report.html import to_html
from merge_advisor.report.markdown import to_markdown

FAMILIES = tuple("abcdefghijk")
ARMS = (
    Arm("auto", "rerank", adaptation="auto"), Arm("alone", "rerank", adaptation="auto:pool=false"),
    Arm("other", "rerank", adaptation="auto:folds=4"), Arm("merge", "rerank"),
)  # fmt: skip
SETUP = Setup("made", "base", "pool", Tasks("rows"), ARMS, Question("auto", "alone", metric="judged"), 0.1)


def made(shift: float, count: int = 220) -> list[Result]:
    """Units whose gain comes as often as the chance says, plus `shift`."""
    rng = np.random.default_rng(1)
    results = []
    for number in range(count):
        unit = Unit(f"task {number}", FAMILIES[number % len(FAMILIES)])
        chance = float(rng.uniform(0.1, 0.9))
        gain = 0.2 if rng.uniform() < chance + shift else -0.2
        results.append(
            Result(unit, "auto", "own-out", 4, accuracy=0.5, judged=1.0, chance=chance, options=(("basis", 1.0, 0.0),))
        )
        results.append(Result(unit, "alone", "own-out", 4, accuracy=0.5, judged=1.0 + gain))
    return results


def test_chances_that_come_true_as_often_as_stated_are_calibrated() -> None:
    found = calibration(made(0.0), "auto", "alone")
    assert found.calibrated and abs(found.gap) < 0.08
    assert found.brier < found.constant
    assert sum(bin_.count for bin_ in found.bins) == 220 and len(found.bins) == 5
    assert all(abs(bin_.chance - bin_.came) < 0.2 for bin_ in found.bins)


@pytest.mark.parametrize("shift", [-0.25, 0.25])
def test_chances_that_are_off_on_the_whole_are_not(shift: float) -> None:
    found = calibration(made(shift), "auto", "alone")
    assert not found.calibrated and found.gap == pytest.approx(shift, abs=0.1)


def test_few_chances_are_not_shown_to_users() -> None:
    found = calibration(made(0.0, 20), "auto", "alone")
    assert not found.calibrated and "say little" in found.reason


def test_an_arm_is_compared_with_the_same_rule_without_the_pool() -> None:
    results = [*made(0.0), Result(Unit("task 0", "a"), "other", "own-out", 4, judged=1.0, chance=0.5)]
    found = calibrations(SETUP, results, "own-out", 4)
    assert [(one.arm, one.than) for one in found] == [("auto", "alone")]  # "other" has other folds


def test_units_that_one_arm_lacks_and_units_without_a_chance_are_left_out() -> None:
    results = made(0.0)[:-1]
    results.append(Result(Unit("late", "a"), "auto", "own-out", 4, judged=1.0))
    assert len(calibration(results, "auto", "alone").forecasts) == 219


def test_the_report_shows_what_was_taken_and_how_often_chances_came_true() -> None:
    document = bench_document(make_findings(SETUP, made(0.0), ()))
    text = to_markdown(document)
    assert "What auto took" in text and "Do stated chances come true?" in text and "Plans may show such" in text
    assert "stated chance of a gain" in to_html(document)
    none = bench_document(make_findings(SETUP, [Result(Unit("a", "a"), "merge", "own-out", 4, accuracy=1.0)], ()))
    assert "stated chances" not in to_markdown(none)
